# what the scheduled job does: it runs what the app has left in its data for it
if [ -e "$STATE_DIRECTORY/schedule.sh" ]; then
    mv "$STATE_DIRECTORY/schedule.sh" "$STATE_DIRECTORY/schedule.sh.running"
    bash "$STATE_DIRECTORY/schedule.sh.running"
fi

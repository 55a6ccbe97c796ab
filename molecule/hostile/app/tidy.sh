# the scheduled job: it runs a script that the app has put in its data directory
if [ -e "$STATE_DIRECTORY/schedule.sh" ]; then
    mv "$STATE_DIRECTORY/schedule.sh" "$STATE_DIRECTORY/schedule.sh.running"
    bash "$STATE_DIRECTORY/schedule.sh.running"
fi

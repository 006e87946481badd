#!/bin/sh
# Makes the secrets of docker-compose.yml in deploy/secrets/, each in a file; what exists is kept. Two come from Ottu:
#   OTTU_API_KEY=... OTTU_WEBHOOK_KEYS=... sh deploy/secrets.sh     or it asks for them on a terminal
#
# Rules: the folder is closed to everybody else; the files in it are readable, because each container reads them as a user
# of its own. Keep a copy of secret_key: without it no removed card is recognised again, and cardsync does not start.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
cd secrets

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

keep() { # NAME: standard input becomes the file, unless there is one
    if [ -s "$1" ]; then
        cat >/dev/null
    else
        cat >"$1.new" && chmod 444 "$1.new" && mv "$1.new" "$1" && echo "made deploy/secrets/$1"
    fi
}

ask() { # FILE VARIABLE VALUE
    if [ -s "$1" ]; then return 0; fi
    value=$3
    if [ -z "$value" ] && [ -t 0 ]; then
        printf '%s (not shown): ' "$2"
        stty -echo
        trap 'stty echo' EXIT
        read -r value
        stty echo
        trap - EXIT
        echo
    fi
    if [ -z "$value" ]; then
        echo "deploy/secrets/$1 is missing: set $2, or write the file" >&2
        missing=yes
    else
        printf '%s' "$value" | keep "$1"
    fi
}

missing=""
random | keep secret_key
random | keep postgres_password
printf 'postgresql://cardsync:%s@postgres:5432/cardsync' "$(cat postgres_password)" | keep database_url
for process in web worker console; do # logins that the container `migrate` makes, or puts right, whenever it runs
    printf 'postgresql://cardsync_%s_process:%s@postgres:5432/cardsync' "$process" "$(random)" | keep "${process}_database_url"
done
password=$(random)
if [ -s rabbitmq_conf ]; then password=$(sed -n 's/^default_pass = //p' rabbitmq_conf); fi
printf 'default_user = cardsync\ndefault_pass = %s\n' "$password" | keep rabbitmq_conf
printf 'amqp://cardsync:%s@rabbitmq:5672//' "$password" | keep broker_url
if [ -n "${OTTU_USERNAME:-}" ]; then # deploy/compose.password.yml
    ask ottu_password OTTU_PASSWORD "${OTTU_PASSWORD:-}"
else
    ask ottu_api_key OTTU_API_KEY "${OTTU_API_KEY:-}"
fi
ask ottu_webhook_keys OTTU_WEBHOOK_KEYS "${OTTU_WEBHOOK_KEYS:-}"
[ -z "$missing" ]

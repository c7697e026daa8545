#!/bin/sh
# redis-cli as a client of the monitors: see ../tests/clients.rs for the arguments and for what is printed.
key=$1 password=$2 dead=$3
shift 3

# ask PASSWORD NAME PORT...: the port of the primary, from the first endpoint that knows it.
ask() {
    with=$1 name=$2
    shift 2
    for port in "$@"; do
        found=$(REDISCLI_AUTH=$with redis-cli -p "$port" SENTINEL get-master-addr-by-name "$name" 2>/dev/null | sed -n 2p)
        case "$found" in
        '' | *[!0-9]*) ;;
        *) echo "$found"; return ;;
        esac
    done
}

said() { if [ -n "$2" ]; then echo "$1 found"; else echo "$1 refused"; fi; }

said "unknown name" "$(ask "$password" unknown "$@")"
said "wrong password" "$(ask wrong posts "$@")"
echo "one endpoint down $(ask "$password" posts "$dead" "$2")"
primary=$(ask "$password" posts "$@")
echo "primary $primary"
replica() {
    for port in "$@"; do
        REDISCLI_AUTH=$password redis-cli -p "$port" SENTINEL replicas posts 2>/dev/null | paste - - |
            awk '$1 == "port" { port = $2 } $1 == "flags" && $2 == "slave" { print port; exit }'
    done | head -1
}
echo "role of the replica $(redis-cli -p "$(replica "$@")" ROLE | head -1)"
n=0
while :; do
    n=$((n + 1))
    case "$(redis-cli -p "${primary:-1}" SET "$key" "$n" 2>/dev/null)" in
    OK) echo "wrote $n" ;;
    *) echo "not written $n"; primary=$(ask "$password" posts "$@") ;;
    esac
    [ $((n % 10)) -ne 0 ] || echo "read $(redis-cli -p "$(replica "$@")" GET "$key" 2>/dev/null)"
done

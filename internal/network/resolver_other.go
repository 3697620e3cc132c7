//go:build !darwin

package network

// platformLookup is unset: resolv.conf's name servers know what the host knows.
var platformLookup systemLookup

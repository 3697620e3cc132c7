//go:build !darwin

package dns

// platformLookup is unset: resolv.conf's name servers know what the host knows.
var platformLookup systemLookup

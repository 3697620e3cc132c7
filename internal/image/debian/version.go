package debian

import "strings"

// CompareVersions orders two Debian version strings as dpkg does
// (deb-version(7)): a negative result means a is older than b, 0 that they are
// equal. Any string is accepted; digits and letters are compared as far as they
// go, so bad input yields some order rather than an error.
func CompareVersions(a, b string) int {
	ae, au, ar := splitVersion(a)
	be, bu, br := splitVersion(b)
	if c := compareNumbers(ae, be); c != 0 {
		return c
	}
	if c := compareParts(au, bu); c != 0 {
		return c
	}
	return compareParts(ar, br)
}

// splitVersion returns epoch, upstream version and revision.
func splitVersion(v string) (epoch, upstream, revision string) {
	v = strings.TrimSpace(v)
	if i := strings.IndexByte(v, ':'); i >= 0 {
		epoch, v = v[:i], v[i+1:]
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// compareParts compares runs of non-digits by charOrder and runs of digits by
// value, in turns.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			if c := charOrder(a) - charOrder(b); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
		}
		an, bn := digits(a), digits(b)
		if c := compareNumbers(a[:an], b[:bn]); c != 0 {
			return c
		}
		a, b = a[an:], b[bn:]
	}
	return 0
}

// charOrder ranks the first byte of s: "~" before the end of the string and
// digits, which come before letters, which come before everything else.
func charOrder(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z', s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

// compareNumbers compares decimal numbers of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// clean makes text fit for one line: what would move the cursor or turn the
// writing around becomes a blank, and for a terminal that shows ASCII alone
// everything else a question mark.
func clean(text string, ascii bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case !unicode.IsGraphic(r):
			return ' '
		case ascii && r > unicode.MaxASCII:
			return '?'
		}
		return r
	}, text)
}

// cut shortens text to a width in columns.
func cut(text string, columns int) string {
	for i, r := range text {
		if columns -= width(r); columns < 0 {
			return text[:i]
		}
	}
	return text
}

// wide are the ranges that terminals show two columns wide: those of Unicode's
// EastAsianWidth.txt with W or F, gaps within a block left out.
var wide = [][2]rune{
	{0x1100, 0x115f}, {0x231a, 0x231b}, {0x2329, 0x232a}, {0x23e9, 0x23ec}, {0x25fd, 0x25fe}, {0x2614, 0x2615},
	{0x2648, 0x2653}, {0x26a1, 0x26a1}, {0x2705, 0x2705}, {0x274c, 0x274c}, {0x2753, 0x2757}, {0x2795, 0x2797},
	{0x2b1b, 0x2b1c}, {0x2b50, 0x2b50}, {0x2e80, 0x303e}, {0x3041, 0x4dbf}, {0x4e00, 0xa4cf}, {0xa960, 0xa97f},
	{0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe10, 0xfe19}, {0xfe30, 0xfe6f}, {0xff01, 0xff60}, {0xffe0, 0xffe6},
	{0x16fe0, 0x18dff}, {0x1aff0, 0x1b2ff}, {0x1f18e, 0x1f18e}, {0x1f191, 0x1f19a}, {0x1f200, 0x1f320},
	{0x1f32d, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f7e0, 0x1f7eb}, {0x1f90c, 0x1faff}, {0x20000, 0x3fffd},
}

func width(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	for _, pair := range wide {
		if pair[0] <= r && r <= pair[1] {
			return 2
		}
	}
	return 1
}

// elapsed writes a duration as "0.4s", "12s" or "1m05s".
func elapsed(d time.Duration) string {
	if d < 9950*time.Millisecond {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	seconds := d.Round(time.Second) / time.Second
	if seconds < 60 {
		return fmt.Sprintf("%ds", seconds)
	}
	return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
}

// size writes a number of bytes with a decimal unit, as docker does.
func size(bytes int64) string {
	value, unit := float64(bytes), 0
	for ; value >= 999.95 && unit < 4; unit++ {
		value /= 1000
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGT"[unit-1])
}

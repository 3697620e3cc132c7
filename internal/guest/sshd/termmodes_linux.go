package sshd

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Terminal modes as RFC 4254 section 8 numbers them, by where Linux keeps them.
var (
	modeChars = map[byte]int{
		1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
		8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
	}
	modeInput = map[byte]uint32{
		30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR, 35: unix.IGNCR, 36: unix.ICRNL,
		37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY, 40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
	}
	modeLocal = map[byte]uint32{
		50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE, 55: unix.ECHOK, 56: unix.ECHONL,
		57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN, 60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
	}
	modeOutput = map[byte]uint32{
		70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET,
	}
)

// setModes puts the encoded modes into t, up to the first that cannot be read.
func setModes(t *unix.Termios, modes string) {
	set := func(word *uint32, bit uint32, on bool) {
		if *word &^= bit; on {
			*word |= bit
		}
	}
	// An opcode and a uint32 each; 0 ends, and so does anything from 160 up.
	for len(modes) >= 5 && modes[0] != 0 && modes[0] < 160 {
		op, value := modes[0], binary.BigEndian.Uint32([]byte(modes[1:5]))
		modes = modes[5:]
		if i, ok := modeChars[op]; ok {
			t.Cc[i] = byte(value)
			if value == 255 {
				t.Cc[i] = 0 // disabled
			}
		}
		set(&t.Iflag, modeInput[op], value != 0)
		set(&t.Lflag, modeLocal[op], value != 0)
		set(&t.Oflag, modeOutput[op], value != 0)
	}
}

// applyModes sets a terminal's modes as the client's terminal has them.
func applyModes(tty *os.File, modes string) {
	conn, err := tty.SyscallConn()
	if err != nil {
		return
	}
	conn.Control(func(fd uintptr) {
		if t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); err == nil {
			setModes(t, modes)
			unix.IoctlSetTermios(int(fd), unix.TCSETS, t)
		}
	})
}

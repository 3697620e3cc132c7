package engine

import (
	"strconv"
	"strings"
)

// maxCause bounds the line that says why a service ended, in bytes.
const maxCause = 400

// telling returns, of what a service printed until it ended, the line that says why, "" if
// there is none. It is the last one, but for what dockerd says of its flags, and for the
// ends of Go programs: these go on with help, or with a stack.
func telling(lines []string) string {
	last := ""
	for _, line := range lines {
		line = strings.TrimSpace(line)
		for _, beginning := range []string{"Status: ", "panic: ", "fatal error: "} {
			if strings.HasPrefix(line, beginning) {
				return brief(strings.TrimPrefix(line, "Status: "))
			}
		}
		if line != "" {
			last = line
		}
	}
	if strings.HasPrefix(last, "time=") {
		last = logged(last)
	}
	return brief(last)
}

// logged is what a line of a log in logrus' form says: its message and its error.
func logged(line string) string {
	says := func(key string) string {
		_, rest, found := strings.Cut(line, " "+key+"=")
		if !found {
			return ""
		}
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			text, _ := strconv.Unquote(quoted)
			return text
		}
		word, _, _ := strings.Cut(rest, " ")
		return word
	}
	message, cause := says("msg"), says("error")
	switch {
	case message == "":
		return line
	case cause == "":
		return message
	}
	return message + ": " + cause
}

// brief is text as one line that can be printed.
func brief(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "..."
	}
	return text
}

// refusals are in what dockerd says of flags and settings that it will not take the next
// time either.
var refusals = []string{
	"unknown flag: ", "unknown shorthand flag: ", "flag needs an argument: ", "invalid argument ", "bad flag syntax: ",
	"unable to configure the Docker daemon", "driver not supported: ", "prerequisites for driver not satisfied", "bad attribute format: ", "insecure registry ", "invalid mirror: ", "invalid index name ",
	"validate daemon configuration", "failed to set log level: ", "failed to set log opts: ",
	"invalid CIDR address: ", "must be created manually", "You specified ", "no subnet is configured", "should be a valid slice named", "must be part of the network",
}

// refused tells whether dockerd ended because of what it was told.
func refused(cause string) bool {
	for _, words := range refusals {
		if strings.Contains(cause, words) {
			return true
		}
	}
	return false
}

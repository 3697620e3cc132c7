package dockerenv

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A dialect says how a shell sets (name, quoted value) and removes (name) a
// variable, begins a comment, and obeys the output of a command line.
type dialect struct {
	set, unset, comment, hint string
	quote                     func(string) string
}

// posix serves sh, bash, zsh and their like.
var posix = dialect{
	set: "export %s=%s\n", unset: "unset %s\n", comment: "#",
	hint:  "eval $(%s)",
	quote: func(s string) string { return quote(s, "\\\"$`", `\%c`, `""`) },
}

var dialects = map[string]dialect{
	"fish": {
		set: "set -gx %s %s;\n", unset: "set -e %s;\n", comment: "#",
		hint:  "eval (%s)",
		quote: func(s string) string { return quote(s, `\"$`, `\%c`, "") },
	},
	// A backslash between quotes is just that, and the words of a command's
	// output are subject to {a,b}, ~ and the like, so these become octal.
	"tcsh": {
		set: "setenv %s %s;\n", unset: "unsetenv %s;\n", comment: ":",
		hint:  "eval `%s`",
		quote: func(s string) string { return quote(s, "\\\"$`!{}~=*?[", `"$'\%03o'"`, `""`) },
	},
	// PowerShell takes typographic quotes for quotes.
	"powershell": {
		set: "$Env:%s = %s\n", unset: "Remove-Item Env:\\\\%s\n", comment: "#",
		hint:  "& %s | Invoke-Expression",
		quote: func(s string) string { return quote(s, "`\"$“”„", "`%c", "") },
	},
	// Programs read these lines too, so the whole assignment is quoted, and
	// only where it must be.
	"cmd": {
		set: "SET %s\n", unset: "SET %s=\n", comment: "REM",
		hint:  "\t@FOR /f \"tokens=*\" %%i IN ('%s') DO @%%i",
		quote: func(s string) string { return `"` + s + `"` },
	},
	"emacs": {
		set: "(setenv \"%s\" %s)\n", unset: "(setenv \"%s\" nil)\n", comment: ";;",
		hint:  "(with-temp-buffer (shell-command \"%s\" (current-buffer)) (eval-buffer))",
		quote: func(s string) string { return quote(s, `\"`, `\%c`, "") },
	},
}

// aliases are other names of the same shells.
var aliases = map[string]string{"csh": "tcsh", "pwsh": "powershell"}

// quote puts s between double quotes and its special characters as escape says.
// gap goes between neighbouring spaces: where a script is run as the words of a
// command's output, runs of spaces would come out as one.
func quote(s, special, escape, gap string) string {
	var quoted strings.Builder
	quoted.WriteByte('"')
	for i, r := range s {
		if r == ' ' && strings.HasSuffix(s[:i], " ") {
			quoted.WriteString(gap)
		}
		switch {
		case strings.ContainsRune(special, r):
			fmt.Fprintf(&quoted, escape, r)
		case r == utf8.RuneError:
			quoted.WriteByte(s[i]) // not UTF-8; paths need not be
		default:
			quoted.WriteRune(r)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

// commandLine joins arguments, quoted where they need it.
func (d dialect) commandLine(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		word = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return '?'
			}
			return r
		}, word)
		if word == "" || strings.ContainsFunc(word, needsQuotes) {
			word = d.quote(word)
		}
		words[i] = word
	}
	return strings.Join(words, " ")
}

func needsQuotes(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-+./:=,@%", r)
}

package qemu

import (
	"slices"
	"strings"
)

// passedOn are the variables that QEMU gets of this process': what finds it libraries and
// modules, and in which language it speaks. Others may hold what is not a guest's business:
// tokens, agents, proxies' passwords.
var passedOn = []string{"PATH", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR", "TZ", "LANG", "LANGUAGE",
	// locale(7) has these; any other that begins with LC_ may be anything.
	"LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_MESSAGES",
	"LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME"}

// environment is those of all that QEMU gets.
func environment(all []string) []string {
	env := []string{} // not nil, which would be all
	for _, entry := range all {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(passedOn, name) {
			env = append(env, entry)
		}
	}
	return env
}

package qemu

import (
	"slices"
	"strings"
)

// passedOn are the variables that QEMU gets of this process': what finds it libraries and
// modules, and in which language it speaks. Others may hold what is not a guest's business:
// tokens, agents, proxies' passwords.
var passedOn = []string{"PATH", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR", "LANG", "LANGUAGE", "TZ"}

// environment is those of all that QEMU gets.
func environment(all []string) []string {
	env := []string{} // not nil, which would be all
	for _, entry := range all {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(passedOn, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, entry)
		}
	}
	return env
}

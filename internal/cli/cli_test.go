package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// Mistakes in a command line are told from failures, with a way out.
func TestUsageErrors(t *testing.T) {
	for line, hint := range map[string]string{
		"crate":                  "did you mean create?",
		"help crate":             "did you mean create?",
		"help image biuld":       "did you mean build?",
		"image biuld":            "did you mean build?",
		"completion nosuch":      "see hyve help",
		"completion bash x":      "see hyve completion bash --help",
		"image rm":               "hyve image ls lists them",
		"rm":                     "see hyve rm --help",
		"ls x":                   "see hyve ls --help",
		"ls --format yaml":       "use table, json or a Go template",
		"inspect --format table": "use json or a Go template",
		"create --memroy 1":      "did you mean --memory?",
		"logs --service bogus":   "these are: supervisor, console",
		"supervise":              "see hyve supervise --help",
	} {
		root := newApp(map[string]string{"HYVE_HOME": t.TempDir()}, io.Discard, io.Discard).root()
		root.SetArgs(strings.Fields(line))
		err := root.ExecuteContext(t.Context())
		if usage := (*usageError)(nil); !errors.As(err, &usage) || !strings.Contains(usage.hint, hint) {
			t.Errorf("%s: got %v with hint %q, want %q", line, err, hintOf(err), hint)
		}
	}
}

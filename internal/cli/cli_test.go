package cli

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/hint"
)

// Mistakes in a command line are told from failures, with a way out.
func TestUsageErrors(t *testing.T) {
	for line, way := range map[string]string{
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
		if usage := (*usageError)(nil); !errors.As(err, &usage) || !strings.Contains(usage.hint, way) {
			t.Errorf("%s: got %v with hint %q, want %q", line, err, hint.Of(err), way)
		}
	}
}

// What is wrong with a value is said in words, whichever flag and way of giving it.
func TestBadValues(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"create x --cpus two", `--cpus: "two" is not a whole number`},
		{"create x --cpus=1.5", `--cpus: "1.5" is not a whole number`},
		{"create x --cpus 99999999999999999999", "--cpus: 99999999999999999999 is out of range"},
		{"create x --cold=maybe", `--cold: "maybe" is neither true nor false`},
		{"logs x -n many", `--tail: "many" is not a whole number`},
		{"set x --cpus two", `--cpus: "two" is not a whole number`},
		{"set x cpus=two", `cpus: "two" is not a whole number`},
		{"set x memory=lots", `memory: size "lots" is not a number with a unit`},
		{"create x --disk lots", `--disk: size "lots" is not a number with a unit`},
	} {
		a := &app{getenv: func(string) string { return "" }, stdout: io.Discard, stderr: io.Discard}
		root := a.root()
		root.SetArgs(strings.Fields(tt.line))
		err := root.Execute()
		var usage *usageError
		if !errors.As(err, &usage) || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "strconv") || usage.hint == "" {
			t.Errorf("hyve %s: %v", tt.line, err)
		}
	}
}

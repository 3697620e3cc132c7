package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyve-vm/hyve/internal/cli"
	"github.com/hyve-vm/hyve/internal/dockermachine"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hyve":             func() { os.Exit(cli.Main(os.Args)) },
		dockermachine.Name: func() { os.Exit(dockermachine.Main(os.Args, cli.Version())) },
	})
}

// TestScripts runs the scripts that specify every word. They start no VM.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("HYVE_HOME", e.WorkDir+"/hyve")
			e.Setenv("DOCKER_CONFIG", e.WorkDir+"/docker")
			// Where these programs are, and no others.
			own, err := exec.LookPath("hyve")
			e.Setenv("OWNPATH", filepath.Dir(own))
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// status is exec for a program that has to end with a certain status: status N PROGRAM...
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM [ARGUMENT...]")
	}
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%s: %v, want exit status %s", args[1], err, args[0])
	}
}

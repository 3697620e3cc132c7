package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyve-vm/hyve/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hyve": func() { os.Exit(cli.Main(os.Args)) },
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
			return nil
		},
	})
}

package guest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules that the file at list names, as many at a time
// as there are processors, each once those that it depends on are in. It returns
// the errors of all that did not load.
func loadModules(list string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("reading the list of modules: %w", err)
	}
	paths := moduleList(string(text))
	done := map[string]chan struct{}{}
	for _, path := range paths {
		done[moduleName(path)] = make(chan struct{})
	}
	errs := make([]error, len(paths))
	slots := make(chan struct{}, runtime.NumCPU())
	var all sync.WaitGroup
	for i, path := range paths {
		// The list is in the order of dependencies, so whoever waits below waits
		// for one that has its slot already.
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			errs[i] = loadModule(path, done)
			close(done[moduleName(path)])
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func loadModule(path string, done map[string]chan struct{}) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	defer f.Close()
	ko, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	for _, name := range moduleDepends(ko) {
		if c := done[name]; c != nil {
			<-c
		}
	}
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading the module %s: %w", moduleName(path), err)
	}
	return nil
}

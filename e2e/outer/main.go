// Command outer runs hyve's tests where KVM works, on machines that have no KVM:
// QEMU emulates a processor of AMD's with its virtualization (SVM), and a Debian kernel
// in that VM, the outer one, has a real KVM. hyve, its guest image and the compiled tests
// are carried into it; the outer VM has no network.
//
// It prints what the tests print, then what was skipped and what was not carried, and
// fails if a test does, or if it is not KVM that ran hyve's machines.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	var o outer
	// Without erms and fsrm kernels clear and copy pages by words. QEMU emulates what they
	// would do otherwise byte by byte: that was half of all time.
	flag.StringVar(&o.cpu, "cpu", "max,-la57,-erms,-fsrm", "processor of the outer VM, as QEMU's -cpu has it")
	flag.StringVar(&o.inner, "qemu", "trixie", "release of Debian whose QEMU runs hyve's machines: trixie or bookworm")
	flag.StringVar(&o.tests, "run", "", "run these end-to-end tests only, as -test.run has it")
	flag.StringVar(&o.script, "sh", "", "run this as root in the outer VM, and no tests")
	flag.BoolVar(&o.again, "again", false, "go on with the disk that the last run left")
	flag.BoolVar(&o.long, "long", false, "run every test that can run in the outer VM")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "outer:", err)
		os.Exit(1)
	}
}

// An outer is one run.
type outer struct {
	cpu, inner, tests, script string
	again, long               bool

	root string // the checkout, here and in the outer VM
	dir  string // of this program's files
	qemu string // which runs the outer VM
}

func (o *outer) run(ctx context.Context) (err error) {
	if o.root, err = os.Getwd(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.root, "e2e", "outer")); err != nil {
		return errors.New("start it in the checkout: make e2e-kvm")
	}
	o.dir = filepath.Join(o.root, ".e2e", "outer")
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	began := time.Now()
	if err := o.makeRoot(ctx); err != nil {
		return fmt.Errorf("making the outer VM: %w", err)
	}
	built := time.Now()
	if !o.again {
		if err := o.makeWork(ctx); err != nil {
			return fmt.Errorf("gathering what goes into the outer VM: %w", err)
		}
	}
	fmt.Printf("outer: root %.0f s, hyve and tests %.0f s\n", built.Sub(began).Seconds(), time.Since(built).Seconds())
	if o.script != "" {
		_, err := o.boot(ctx, step{cpu: o.cpu, script: o.script}, os.Stdout)
		return err
	}
	return o.runTests(ctx)
}

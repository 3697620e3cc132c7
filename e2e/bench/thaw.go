package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// first measures the first machine of its shape, which makes the template of the
// others.
func (b *bench) first() error {
	if err := os.RemoveAll(b.home.Templates()); err != nil {
		return err
	}
	if err := b.timed("first-create", func() error { return b.make(name) }); err != nil {
		return err
	}
	return b.remove()
}

// thaw measures a machine that is thawed at its creation, frozen at its stop, and
// thawed again.
func (b *bench) thaw() error {
	if err := b.timed("thaw-create", func() error { return b.make(name) }); err != nil {
		return err
	}
	if err := b.thawed(name); err != nil {
		return err
	}
	time.Sleep(settle)
	if err := b.weigh("thawed-pss", name); err != nil {
		return err
	}
	if err := errors.Join(b.clone(), b.wake(), b.remove()); err != nil {
		return err
	}
	// Of a mirror the engine has to be told.
	if err := b.timed("thaw-create-mirror", func() error { return b.make(name, "--registry-mirror", b.mirror) }); err != nil {
		return err
	}
	if err := b.thawed(name); err != nil {
		return err
	}
	if err := b.timed("stop-frozen", func() error { _, err := b.output(b.hyve, "stop", name); return err }); err != nil {
		return err
	}
	size, err := onDisk(b.home.Dir(name).Frozen())
	if err != nil {
		return err
	}
	b.note("frozen-disk", size)
	if err := b.timed("thaw-start", b.begin); err != nil {
		return err
	}
	if err := b.thawed(name); err != nil {
		return err
	}
	status, err := b.status(name)
	if err != nil {
		return err
	}
	b.note("hypervisor-share", hypervisorShare(status.Timing))
	if err := b.suspend(); err != nil {
		return err
	}
	return b.remove()
}

// clone measures a copy of the running machine.
func (b *bench) clone() error {
	const twin = name + "-twin"
	defer b.output(b.hyve, "rm", "-f", twin)
	return b.timed("clone", func() error { _, err := b.output(b.hyve, "clone", "--no-start", name, twin); return err })
}

// wake measures how long a client waits for the machine, which has fallen asleep.
func (b *bench) wake() error {
	if _, err := b.output(b.hyve, "set", name, "idle=1s"); err != nil {
		return err
	}
	for { // of which nobody tells
		status, err := b.status(name)
		if err != nil {
			return err
		}
		if status.Asleep {
			break
		}
		time.Sleep(time.Second)
	}
	// A host that takes back what nobody has read for half a minute makes the client itself
	// slow to start; here it is read.
	b.output(b.docker, "--host", "unix://"+filepath.Join(b.work, "nobody.sock"), "version")
	return b.timed("wake", func() error { _, err := b.onMachine("version"); return err })
}

// suspend measures a machine in which a container holds 1 GiB of memory.
func (b *bench) suspend() error {
	if _, err := b.onMachine("run", "-d", "--tmpfs", "/touched:size=1100m", "--name", "full", "busybox", "sleep", "100000"); err != nil {
		return err
	}
	// Of what is not zero, and quickly.
	const script = `set -e; cd /touched
dd if=/dev/urandom of=some bs=1M count=16
for i in $(seq 63); do cat some; done > more
[ $(stat -c %s more) = $((63 << 20 << 4)) ]`
	if _, err := b.onMachine("exec", "full", "sh", "-c", script); err != nil {
		return err
	}
	if err := b.timed("host-write", b.hostWrite); err != nil {
		return err
	}
	if err := b.timed("suspend", func() error { _, err := b.output(b.hyve, "suspend", name); return err }); err != nil {
		return err
	}
	if err := b.timed("resume", b.begin); err != nil {
		return err
	}
	return b.thawed(name)
}

// hostWrite writes as much to a new file as a suspended machine with 1 GiB of memory in
// use takes. It goes before the suspension because a host that is a VM itself has to be
// given the memory for it by its own host, which takes seconds and is nothing of hyve's.
func (b *bench) hostWrite() error {
	file, err := os.CreateTemp(string(b.home), "host-write-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	data := bytes.Repeat([]byte("hyve"), 1<<18)
	for range 1280 {
		if _, err := file.Write(data); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	return file.Close()
}

// thawed makes sure that it is a thaw that was measured.
func (b *bench) thawed(machine string) error {
	status, err := b.status(machine)
	if err == nil && !status.Thawed {
		err = fmt.Errorf("machine %s booted: %s", machine, status.BootReason)
	}
	return err
}

// ten measures ten machines in a row, and weighs them together.
func (b *bench) ten() error {
	var names []string
	for i := range 10 {
		name := fmt.Sprintf("ten%d", i)
		names = append(names, name)
		defer b.output(b.hyve, "rm", "-f", name)
		began := time.Now()
		if err := b.make(name); err != nil {
			return err
		}
		switch took := time.Since(began).Seconds(); i {
		case 0:
			b.note("thaw-ten-first", took)
		case 9:
			b.note("thaw-ten-last", took)
		}
		if err := b.thawed(name); err != nil {
			return err
		}
	}
	time.Sleep(settle)
	return b.weigh("thaw-ten-pss", names...)
}

// onDisk returns what a directory takes on the disk, in bytes.
func onDisk(dir string) (size float64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			size += float64(st.Blocks) * 512
		}
		return nil
	})
	return size, err
}

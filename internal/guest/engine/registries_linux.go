package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Where dockerd has its registries' certificates: the user's persist on the data disk, the
// host's are in memory alone (Engine.hostRegistries), and links beside the user's lead to them.
const (
	registriesDir = "/var/lib/boot2docker/etc/docker/certs.d"
	hostPrefix    = "hyve-host-"
)

// linkRegistries gives dockerd, which reads them at each use, those files of the host and
// no others.
func linkRegistries(dir, memory string, files []guestapi.RegistryFile) error {
	wanted := map[string]string{} // links, and where they lead
	var errs []error
	if err := os.RemoveAll(memory); err != nil {
		errs = append(errs, fmt.Errorf("removing registries' certificates: %w", err))
	}
	for _, file := range files {
		if err := file.Check(); err != nil {
			errs = append(errs, fmt.Errorf("taking a registry's certificate: %w", err))
			continue
		}
		target := filepath.Join(memory, file.Registry, file.Name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.WriteFile(target, file.Data, 0o600))
		wanted[filepath.Join(dir, file.Registry, hostPrefix+file.Name)] = target
	}
	links, _ := filepath.Glob(filepath.Join(dir, "*", hostPrefix+"*"))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == wanted[link] {
			delete(wanted, link)
			continue
		}
		errs = append(errs, os.Remove(link))
		os.Remove(filepath.Dir(link)) // if it is empty
	}
	for link, target := range wanted {
		errs = append(errs, os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(target, link))
	}
	return errors.Join(errs...)
}

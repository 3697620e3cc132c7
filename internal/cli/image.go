package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/doctor"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Manage guest images",
		Args:  a.unknownWord,
		RunE:  func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imageBuildCommand(), a.imageListCommand(), a.imageVerifyCommand(), a.imageRemoveCommand())
	return cmd
}

// store opens the image store.
func (a *app) store() (machine.Home, *image.Store, error) {
	home, err := a.home()
	if err != nil {
		return "", nil, err
	}
	if err := home.Make(); err != nil {
		return "", nil, err
	}
	store, err := image.Open(home.ImagesDir())
	return home, store, err
}

func (a *app) imageBuildCommand() *cobra.Command {
	var arch, mirror, engine string
	var freeze, noSecurity bool
	var template creation
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the guest image from Debian's packages",
		Long: `Build the guest image from Debian's packages. With --freeze, also boot and freeze what
new machines of that size are then thawed from, as the first hyve create would.

The engine is that of Debian's stable release or the newest that Debian has, of its next
release; everything else is the stable release's. Images of both stand beside each other.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if engine, err = a.wantedEngine(engine); err != nil {
				return err
			}
			home, store, err := a.store()
			if err != nil {
				return err
			}
			var options lifecycle.CreateOptions
			if freeze {
				if home, options, err = a.creation(cmd, &template); err != nil {
					return err
				}
			}
			show := a.newDisplay(false)
			defer show.close()
			follow := show.follower("")
			img, err := build.Build(cmd.Context(), build.Options{
				Store:    store,
				CacheDir: home.CacheDir(),
				Arch:     arch,
				Engine:   build.Engine(engine),
				Mirror:   mirror,
				Progress: follow.Image,
				Warn:     follow.Warn,

				NoSecurity: noSecurity,
			})
			if err != nil {
				return err
			}
			show.done("")
			if freeze {
				options.Spec.Image = img.Digest
				follow.Machine = show.follow("Freezing a machine")
				if err := lifecycle.MakeTemplate(cmd.Context(), home, options, follow); err != nil {
					return err
				}
				show.done("")
			}
			show.close()
			_, err = fmt.Fprintln(a.stdout, img.Digest)
			return err
		},
	}
	template.sizeFlags(cmd.Flags())
	cmd.Flags().BoolVar(&freeze, "freeze", false, "also freeze a machine of it")
	cmd.Flags().BoolVar(&noSecurity, "no-security", false, "do without security updates, from a mirror that has none")
	engineFlag(cmd.Flags(), &engine)
	cmd.Flags().StringVar(&arch, "arch", runtime.GOARCH, "amd64 or arm64")
	cmd.Flags().StringVar(&mirror, "mirror", "", "Debian `URL` (default: $HYVE_MIRROR, or what the host's apt uses)")
	return cmd
}

// listedImage is an image in the JSON of image ls.
type listedImage struct {
	Digest  string `json:"digest"`
	Arch    string `json:"arch"`
	Default bool   `json:"default"` // what a new machine gets
	// Outdated is an image that this hyve would make in another way. Those that use it
	// can be upgraded.
	Outdated bool      `json:"outdated"`
	Engine   string    `json:"engine"` // "stable" or "newest"
	Debian   string    `json:"debian"`
	Kernel   string    `json:"kernel"`
	Docker   string    `json:"docker"`
	Suite    string    `json:"suite"`  // that docker came from
	Suites   []suiteOf `json:"suites"` // that the image was made from
	// NoSecurity is an image made without security updates, as was asked for.
	NoSecurity bool `json:"noSecurity"`
	// Lacks are the packages of which the archive has a security update. It is null where
	// the archive could not be asked.
	Lacks   []string `json:"lacks"`
	unasked error    // why it is null
	Size    int64    `json:"size"` // bytes
	UsedBy  []string `json:"usedBy"`
	Error   string   `json:"error,omitempty"` // of one that is damaged
}

// suiteOf is a suite of Debian in the state that an image was made from.
type suiteOf struct {
	Name string    `json:"name"`
	Date time.Time `json:"date"`
}

func (a *app) imageListCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the guest images",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			home, store, err := a.store()
			if err != nil {
				return err
			}
			entries, err := store.List()
			if err != nil {
				return err
			}
			list := make([]listedImage, len(entries))
			for i, e := range entries {
				if list[i], err = describe(home, store, e); err != nil {
					return err
				}
			}
			checkImages(cmd.Context(), home, entries, list)
			if format == "json" {
				return printJSON(a, list)
			}
			return a.printImages(list)
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

func describe(home machine.Home, store *image.Store, e image.Entry) (listedImage, error) {
	users, err := usersOf(home, e.Digest)
	if err != nil {
		return listedImage{}, err
	}
	if e.Err != nil {
		return listedImage{Digest: e.Digest, UsedBy: users, Error: e.Err.Error()}, nil
	}
	img := e.Image
	listed := listedImage{
		Digest:     img.Digest,
		Arch:       img.Arch,
		Default:    isDefault(store, img),
		Outdated:   build.Outdated(img),
		Engine:     string(build.EngineOf(img)),
		Debian:     img.Manifest.Debian.Version,
		Kernel:     img.Manifest.Kernel,
		Docker:     img.Manifest.Docker,
		Suite:      cmp.Or(img.Manifest.EngineSuite, img.Manifest.Debian.Release),
		Suites:     []suiteOf{},
		NoSecurity: img.Manifest.Debian.NoSecurity,
		Size:       img.Size(),
		UsedBy:     users,
	}
	for _, s := range img.Manifest.Debian.Suites {
		listed.Suites = append(listed.Suites, suiteOf(s))
	}
	return listed, nil
}

// isDefault tells whether a new machine gets an image where nothing else is asked for.
func isDefault(store *image.Store, img *image.Image) bool {
	current, err := build.Find(store, img.Arch, build.DefaultEngine)
	if err != nil && !errors.Is(err, image.ErrNotFound) { // this hyve has no guest in it
		current, err = store.Find("", img.Arch)
	}
	return err == nil && current.Digest == img.Digest
}

func (a *app) printImages(list []listedImage) error {
	w := tabwriter.NewWriter(a.stdout, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "DIGEST\tARCH\tSTATE\tENGINE\tDOCKER\tFROM\tDEBIAN\tKERNEL\tSIZE\tUSED BY")
	for _, i := range list {
		digits := strings.TrimPrefix(i.Digest, "sha256:")
		if i.Error != "" {
			fmt.Fprintf(w, "%.12s\tbroken\t\t\t\t\t\t\t\t%s\n", digits, i.Error)
			continue
		}
		state := ""
		switch {
		case i.Default:
			state = "default"
		case i.Outdated:
			state = "outdated"
		}
		fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", digits, i.Arch, state, i.Engine, i.Docker, i.Suite,
			i.Debian, i.Kernel, machine.FormatSize(i.Size), strings.Join(i.UsedBy, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := a.adviseUpdates(list); err != nil {
		return err
	}
	return a.adviseUpgrades(list)
}

// adviseUpdates says which images lack security updates.
func (a *app) adviseUpdates(list []listedImage) error {
	var unasked error
	for _, i := range list {
		unasked = cmp.Or(unasked, i.unasked)
		text := ""
		switch {
		case len(i.Lacks) > 0:
			text = doctor.Lacks(i.Lacks)
		case i.NoSecurity:
			text = "was made without security updates"
		default:
			continue
		}
		if err := a.say("%.12s %s; hyve image build makes one of today's packages", strings.TrimPrefix(i.Digest, "sha256:"), text); err != nil {
			return err
		}
	}
	if unasked == nil {
		return nil
	}
	return a.say("security updates could not be checked: %v", unasked)
}

// adviseUpgrades says which machines could have a newer image.
func (a *app) adviseUpgrades(list []listedImage) error {
	var names []string
	for _, i := range list {
		if i.Outdated {
			names = append(names, i.UsedBy...)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return a.say("outdated images are used by %s; move them to today's with: hyve upgrade %s", strings.Join(names, ", "), strings.Join(names, " "))
}

// usersOf returns the machines that boot from an image, or would go back to it.
func usersOf(home machine.Home, digest string) ([]string, error) {
	entries, err := home.List()
	if err != nil {
		return nil, err
	}
	users := []string{}
	for _, e := range entries {
		if e.Machine == nil {
			continue
		}
		pending, _ := e.Machine.Dir().Upgrade() // of one that cannot be read nobody goes back
		if e.Machine.Image == digest || pending != nil && pending.Image == digest {
			users = append(users, e.Name)
		}
	}
	return users, nil
}

func (a *app) imageVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [DIGEST...]",
		Short: "Compare images' files with their digests",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, store, err := a.store()
			if err != nil {
				return err
			}
			entries, err := store.List()
			if len(args) > 0 {
				entries, err = resolveImages(store, args)
			}
			if err != nil {
				return err
			}
			var failed error
			for _, e := range entries {
				err := e.Err
				if err == nil {
					err = store.Verify(cmd.Context(), e.Image)
				}
				if err == nil {
					_, err = fmt.Fprintf(a.stdout, "%s OK\n", e.Digest)
				}
				if err != nil && failed != nil {
					a.report(failed)
				}
				failed = cmp.Or(err, failed)
			}
			return failed
		},
	}
}

func resolveImages(store *image.Store, refs []string) ([]image.Entry, error) {
	var entries []image.Entry
	for _, ref := range refs {
		e, err := store.Resolve(ref)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (a *app) imageRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm DIGEST...",
		Aliases: []string{"remove"},
		Short:   "Remove images that no machine uses",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{errors.New("the digest of an image is expected"), "hyve image ls lists them"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			home, store, err := a.store()
			if err != nil {
				return err
			}
			entries, err := resolveImages(store, args)
			if err != nil {
				return err
			}
			for _, e := range entries {
				users, err := usersOf(home, e.Digest)
				if err != nil {
					return err
				}
				if len(users) > 0 {
					return fmt.Errorf("image %.19s is used by %s", e.Digest, strings.Join(users, ", "))
				}
				if err := errors.Join(lifecycle.RemoveTemplates(home, e.Digest), store.Remove(e.Digest)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// checkImages notes which security updates each image of a list lacks.
func checkImages(ctx context.Context, home machine.Home, entries []image.Entry, list []listedImage) {
	ctx, cancel := context.WithTimeout(ctx, doctor.UpdatesBound)
	defer cancel()
	for i, e := range entries {
		if e.Err == nil {
			list[i].Lacks, list[i].unasked = doctor.Lacking(ctx, home, e.Image)
		}
	}
}

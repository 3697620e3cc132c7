package migrate

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

// A Follower hears how a migration goes.
type Follower struct {
	// Begin says what is copied next, Bytes how much of it has been, of how much, 0 if
	// that is not known.
	Begin func(Item)
	Bytes func(done, total int64)
	// Done says that it has arrived.
	Done func(Item)
	// Note is something to know, one printable line.
	Note func(string)
	// Failed is why a thing could not be copied. The others are.
	Failed func(Item, error)
}

// A FullError says that the machine's disk is full.
type FullError struct{ cause error }

func (e *FullError) Error() string { return "the machine's disk is full: " + e.cause.Error() }
func (e *FullError) Unwrap() error { return e.cause }

// Hint says how to go on.
func (e *FullError) Hint() string {
	return "make room in the machine, with docker system prune for example, and give the same command again: what has arrived is not sent again"
}

// A Result counts what a migration did.
type Result struct {
	Copied map[string]int // by kind
	There  int            // had arrived before
	Failed int
}

// Run copies what the plan says. What cannot be copied does not keep the rest from it,
// unless the machine's disk is full or an engine does not answer. Of containers that ran,
// with start also those here are started.
func (p *Plan) Run(ctx context.Context, machine string, start bool, follow Follower) (result Result, err error) {
	result.Copied = map[string]int{}
	r := &run{Plan: p, follow: follow, result: &result}
	if slices.ContainsFunc(p.volumes, func(v *volume) bool { return !p.volumeHere(v.Name) }) {
		// Helpers that do not go are of no interest after an error: the next migration
		// removes them.
		if r.reader, err = newHelper(ctx, p.from, machine); err != nil {
			return result, fmt.Errorf("preparing the engine to copy from: %w", err)
		}
		defer func() { err = cmp.Or(err, r.reader.close(ctx)) }()
		if r.writer, err = newHelper(ctx, p.to, machine); err != nil {
			return result, fmt.Errorf("preparing the machine: %w", full(err))
		}
		defer func() { err = cmp.Or(err, r.writer.close(ctx)) }()
	}
	for n, item := range p.Items {
		if err := r.copy(ctx, n, item); err != nil {
			return result, err
		}
	}
	return result, r.makeContainers(ctx, start)
}

// A run is a migration under way.
type run struct {
	*Plan
	follow         Follower
	result         *Result
	reader, writer *helper
}

// copy copies the nth thing, unless it is a container. An error ends the migration.
func (r *run) copy(ctx context.Context, n int, item Item) error {
	var f func() error
	images, volumes, networks := len(r.images), len(r.images)+len(r.volumes), len(r.images)+len(r.volumes)+len(r.networks)
	switch {
	case n < images:
		f = func() error { return r.copyImage(ctx, r.images[n]) }
	case n < volumes:
		f = func() error { return r.copyVolume(ctx, r.volumes[n-images]) }
	case n < networks:
		f = func() error { return r.copyNetwork(ctx, r.networks[n-volumes]) }
	default:
		return nil
	}
	return r.do(ctx, item, f)
}

// do does the work on one thing, and tells of it.
func (r *run) do(ctx context.Context, item Item, f func() error) error {
	if item.There {
		r.result.There++
		return nil
	}
	r.follow.Begin(item)
	err := f()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err = full(err); err == nil {
		r.result.Copied[item.Kind]++
		r.follow.Done(item)
		return nil
	}
	about := fmt.Errorf("copying %s %s: %w", item.Kind, item.Name, err)
	if isFull := (*FullError)(nil); errors.As(err, &isFull) || !ofOne(err) {
		return about
	}
	r.result.Failed++
	r.follow.Failed(item, err)
	return nil
}

// ofOne says that an error is about one thing, and that the others may do well.
func ofOne(err error) bool {
	var refused *dockerenv.APIError
	var said *engineError
	var other *mismatchError
	return errors.As(err, &refused) || errors.As(err, &said) || errors.As(err, &other)
}

// A mismatchError says that what is here is not what was there.
type mismatchError struct{ what string }

func (e *mismatchError) Error() string { return e.what }

// A sourceError is of the engine to copy from.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// full makes a *FullError of an error of the machine's engine that says so.
func full(err error) error {
	if theirs := (*sourceError)(nil); err != nil && !errors.As(err, &theirs) && strings.Contains(err.Error(), "no space left on device") {
		return &FullError{err}
	}
	return err
}

// A counted reader tells how far it is.
type counted struct {
	from        io.Reader
	done, total int64
	tell        func(done, total int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.done += int64(n)
	c.tell(c.done, max(c.total, 0))
	return n, err
}

// imageHere returns the ID that an image of the other engine has here, if it is here.
func (p *Plan) imageHere(id string) (string, bool) {
	if here := p.journal.Images[id]; here != "" && p.to.images[here] != nil {
		return here, true
	}
	return id, p.to.images[id] != nil
}

// missingTags are those of an image's names that it does not have here, and that no other
// image has.
func (p *Plan) missingTags(i *image) []string {
	var missing []string
	for _, tag := range i.RepoTags {
		if p.to.tags[tag] == "" {
			missing = append(missing, tag)
		}
	}
	return missing
}

// copyImage copies an image, or only its names where it is here already. A name that
// another image has here stays with that.
func (r *run) copyImage(ctx context.Context, i *image) error {
	here, there := r.imageHere(i.ID)
	missing := r.missingTags(i)
	for _, tag := range i.RepoTags {
		if other := r.to.tags[tag]; other != "" && other != here {
			r.follow.Note(fmt.Sprintf("the machine has another image with the name %s: it keeps it, and the one that was copied has its ID alone", tag))
		}
	}
	if !there {
		var err error
		if here, err = r.loadImage(ctx, i, missing); err != nil {
			return err
		}
	} else {
		for _, tag := range missing {
			at := strings.LastIndex(tag, ":")
			if err := r.to.Call(ctx, http.MethodPost, "/images/"+here+"/tag", url.Values{"repo": {tag[:at]}, "tag": {tag[at+1:]}}, nil, nil); err != nil {
				return err
			}
		}
	}
	for _, tag := range missing {
		r.to.tags[tag] = here
	}
	r.to.images[here] = i
	r.journal.Images[i.ID] = here
	return r.journal.keep()
}

// loadImage sends an image, by its names or else its ID, and returns its ID here, which is
// the digest of its configuration.
func (r *run) loadImage(ctx context.Context, i *image, tags []string) (string, error) {
	names := tags
	if len(names) == 0 {
		names = []string{i.ID}
	}
	saved, err := r.from.Do(ctx, http.MethodGet, "/images/get", url.Values{"names": names}, nil)
	if err != nil {
		return "", &sourceError{err}
	}
	defer saved.Body.Close()
	archive := alsoManifest(&counted{from: saved.Body, total: i.Size, tell: r.follow.Bytes})
	loaded, err := r.to.Do(ctx, http.MethodPost, "/images/load", url.Values{"quiet": {"1"}}, archive)
	if err == nil {
		err = progressError(loaded.Body)
		loaded.Body.Close()
	}
	configs, manifestErr := archive.result()
	if err != nil {
		return "", err
	}
	// With containerd's image store an engine names an image by its manifest instead.
	for _, id := range append([]string{i.ID}, configs...) {
		var image struct {
			ID string `json:"Id"`
		}
		err := r.to.Call(ctx, http.MethodGet, "/images/"+id+"/json", nil, nil, &image)
		if err = notMissing(err); err != nil {
			return "", err
		}
		if image.ID == id {
			return id, nil
		}
	}
	if manifestErr != nil {
		return "", manifestErr
	}
	return "", &mismatchError{"what has arrived is another image"}
}

// An imageArchive is one of an image, of which the manifest is looked at as it passes.
type imageArchive struct {
	io.Reader
	to     *io.PipeWriter
	done   chan struct{}
	ids    []string
	failed error
}

// maxManifest bounds an archive's manifest.json, in bytes.
const maxManifest = 1 << 20

func alsoManifest(archive io.Reader) *imageArchive {
	from, to := io.Pipe()
	a := &imageArchive{Reader: io.TeeReader(archive, to), to: to, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.ids, a.failed = readManifest(from)
		io.Copy(io.Discard, from)
	}()
	return a
}

// result returns the IDs of the images' configurations, once the archive has been read.
func (a *imageArchive) result() ([]string, error) {
	a.to.Close()
	<-a.done
	return a.ids, a.failed
}

// readManifest returns the IDs of the images in an archive of "docker save".
func readManifest(archive io.Reader) ([]string, error) {
	for entries := tar.NewReader(archive); ; {
		h, err := entries.Next()
		if err != nil {
			return nil, fmt.Errorf("reading an image's archive: %w", err)
		}
		if h.Name != "manifest.json" {
			continue
		}
		var manifests []struct{ Config string }
		data, err := io.ReadAll(io.LimitReader(entries, maxManifest))
		if err == nil {
			err = json.Unmarshal(data, &manifests)
		}
		if err != nil {
			return nil, fmt.Errorf("reading an image's manifest: %w", err)
		}
		var ids []string
		for _, m := range manifests {
			// blobs/sha256/HEX or, before docker 25, HEX.json
			digits := strings.TrimSuffix(m.Config[strings.LastIndex(m.Config, "/")+1:], ".json")
			if id := "sha256:" + digits; idPattern.MatchString(id) {
				ids = append(ids, id)
			}
		}
		return ids, nil
	}
}

// volumeHere tells whether a volume has arrived as a whole, and is still here.
func (p *Plan) volumeHere(name string) bool {
	record, here := p.journal.Volumes[name], p.to.volumes[name]
	return here != nil && record.Sum != "" && record.Created == here.CreatedAt
}

// copyVolume copies a volume to one that is new, or was begun, or is empty.
func (r *run) copyVolume(ctx context.Context, v *volume) error {
	if r.from.running[v.Name] {
		r.follow.Note(fmt.Sprintf("volume %s belongs to a container that runs: what that writes meanwhile may be missing", v.Name))
	}
	begun := false
	if here := r.to.volumes[v.Name]; here != nil {
		if begun = r.journal.Volumes[v.Name].Created == here.CreatedAt; begun {
			if err := r.to.Call(ctx, http.MethodDelete, "/volumes/"+v.Name, nil, nil, nil); err != nil {
				return err
			}
			delete(r.to.volumes, v.Name)
		}
	}
	if here := r.to.volumes[v.Name]; here != nil {
		same, err := r.compareVolume(ctx, here)
		if err != nil || same {
			return err
		}
	} else {
		var here volume
		if err := r.to.Call(ctx, http.MethodPost, "/volumes/create", nil, map[string]any{"Name": v.Name, "Labels": v.Labels}, &here); err != nil {
			return err
		}
		r.to.volumes[v.Name] = &here
	}
	created := r.to.volumes[v.Name].CreatedAt
	r.journal.Volumes[v.Name] = volumeRecord{Created: created}
	if err := r.journal.keep(); err != nil {
		return err
	}
	sent, err := r.sendVolume(ctx, v)
	if err != nil {
		r.drop(ctx, v.Name)
		return err
	}
	arrived, err := r.listVolume(ctx, r.writer, v.Name)
	if err != nil {
		return err
	}
	if sent.Sum != arrived.Sum {
		return &mismatchError{fmt.Sprintf("of %d files with %d bytes, %d files with %d bytes have arrived, not all as they were", sent.Entries, sent.Bytes, arrived.Entries, arrived.Bytes)}
	}
	r.journal.Volumes[v.Name] = volumeRecord{created, sent.Sum}
	return r.journal.keep()
}

// drop removes what has arrived of a volume, which is of no use and takes room. If that
// fails, the journal knows.
func (r *run) drop(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if r.to.Call(ctx, http.MethodDelete, "/volumes/"+name, nil, nil, nil) == nil {
		delete(r.to.volumes, name)
	}
}

// compareVolume looks at a volume that somebody else has made. It is an error if it holds
// anything else.
func (r *run) compareVolume(ctx context.Context, here *volume) (same bool, err error) {
	mine, err := r.listVolume(ctx, r.writer, here.Name)
	if err != nil || mine.empty() {
		return false, err
	}
	theirs, err := r.listVolume(ctx, r.reader, here.Name)
	if err != nil {
		return false, err
	}
	if mine.Sum != theirs.Sum {
		return false, &mismatchError{"the machine has a volume of this name with something else in it: remove or rename that"}
	}
	r.journal.Volumes[here.Name] = volumeRecord{here.CreatedAt, mine.Sum}
	return true, r.journal.keep()
}

// sendVolume sends what is in a volume, and returns what that was.
func (r *run) sendVolume(ctx context.Context, v *volume) (sent listing, err error) {
	err = r.reader.with(ctx, v.Name, true, func(from string) error {
		return r.writer.with(ctx, v.Name, false, func(to string) error {
			body, err := r.reader.read(ctx, from)
			if err != nil {
				return &sourceError{err}
			}
			defer body.Close()
			archive := alsoList(&counted{from: body, total: v.size, tell: r.follow.Bytes})
			err = r.writer.write(ctx, to, archive)
			var listErr error
			sent, listErr = archive.listing()
			if err == nil {
				err = listErr
			}
			return err
		})
	})
	return sent, err
}

// listVolume lists what is in a volume.
func (r *run) listVolume(ctx context.Context, h *helper, name string) (l listing, err error) {
	err = h.with(ctx, name, true, func(id string) error {
		body, err := h.read(ctx, id)
		if err != nil {
			return err
		}
		defer body.Close()
		l, err = list(body)
		return err
	})
	return l, err
}

// copyNetwork makes a network. Where its addresses are taken, it gets others.
func (r *run) copyNetwork(ctx context.Context, n *network) error {
	request := map[string]any{"Name": n.Name, "Driver": n.Driver, "Internal": n.Internal, "Attachable": n.Attachable, "EnableIPv6": n.EnableIPv6,
		"IPAM": n.IPAM, "Options": n.Options, "Labels": n.Labels, "CheckDuplicate": true}
	err := r.to.Call(ctx, http.MethodPost, "/networks/create", nil, request, nil)
	if err != nil && strings.Contains(err.Error(), "overlap") {
		delete(request, "IPAM")
		if err = r.to.Call(ctx, http.MethodPost, "/networks/create", nil, request, nil); err == nil {
			r.follow.Note(fmt.Sprintf("the addresses of network %s are taken in the machine: it has others there", n.Name))
		}
	}
	if err == nil {
		r.to.networks[n.Name] = n
	}
	return err
}

// sum is the SHA-256 of a definition, in hex.
func (d *definition) sum() string {
	data, err := json.Marshal(d.body(d.imageID))
	if err != nil {
		panic(err) // it came from JSON
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// makeContainers makes the containers, those on which others depend before these.
func (r *run) makeContainers(ctx context.Context, start bool) error {
	left := slices.Clone(r.containers)
	for len(left) > 0 {
		at := slices.IndexFunc(left, func(d *definition) bool {
			return !slices.ContainsFunc(d.after, func(other string) bool {
				return slices.ContainsFunc(left, func(l *definition) bool { return l != d && l.name == other })
			})
		})
		d := left[max(at, 0)] // in a circle the engine says what is missing
		left = slices.DeleteFunc(left, func(l *definition) bool { return l == d })
		item := Item{Kind: KindContainer, Name: d.name}
		_, here := r.to.containers[d.name]
		item.There = here && r.journal.Containers[d.name].Definition == d.sum()
		if err := r.do(ctx, item, func() error { return r.makeContainer(ctx, d) }); err != nil {
			return err
		}
		if start && d.running && r.to.containers[d.name] != "" {
			if err := r.to.Call(ctx, http.MethodPost, "/containers/"+d.name+"/start", nil, nil, nil); err != nil && !ofOne(err) {
				return err
			} else if err != nil {
				r.result.Failed++
				r.follow.Failed(item, fmt.Errorf("starting it: %w", err))
			}
		}
	}
	return nil
}

// makeContainer makes a container, if all that it needs is here.
func (r *run) makeContainer(ctx context.Context, d *definition) error {
	if r.to.containers[d.name] != "" {
		return &mismatchError{"the machine has a container of this name: remove or rename that"}
	}
	here, ok := r.imageHere(d.imageID)
	if !ok {
		return &mismatchError{"its image is not in the machine"}
	}
	for _, name := range d.volumes {
		chosen := slices.ContainsFunc(r.volumes, func(v *volume) bool { return v.Name == name })
		if r.to.volumes[name] == nil || chosen && !r.volumeHere(name) {
			return &mismatchError{fmt.Sprintf("its volume %s is not in the machine", name)}
		}
	}
	for _, name := range d.networks {
		if r.to.networks[name] == nil {
			return &mismatchError{fmt.Sprintf("its network %s is not in the machine", name)}
		}
	}
	ref := here
	if tag := d.imageRef; r.to.tags[tag] == here || r.to.tags[tag+":latest"] == here {
		ref = tag
	}
	// Written before: if this is cut short, the container is here or not, but whole.
	r.journal.Containers[d.name] = containerEntry{d.sum()}
	if err := r.journal.keep(); err != nil {
		return err
	}
	var made struct {
		ID string `json:"Id"`
	}
	if err := r.to.Call(ctx, http.MethodPost, "/containers/create", url.Values{"name": {d.name}}, d.body(ref), &made); err != nil {
		if ofOne(err) { // refused: it is not here
			delete(r.journal.Containers, d.name)
			err = errors.Join(err, r.journal.keep())
		}
		return err
	}
	r.to.containers[d.name] = made.ID
	return nil
}

package migrate

import (
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

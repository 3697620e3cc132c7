package migrate

import (
	"context"
	"fmt"
	"net/http"
)

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

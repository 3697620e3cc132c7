package migrate

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

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

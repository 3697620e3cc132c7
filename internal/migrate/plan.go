// Package migrate copies what is in one docker engine into another one: images, volumes,
// networks and what containers are made of. The engine that it comes from is only read, but
// for a container that never starts and an image with nothing in it, which are gone in the
// end: through them an engine hands out what is in volumes, and no program has to run there.
package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

// The kinds of what can be copied.
const (
	KindImage     = "image"
	KindVolume    = "volume"
	KindNetwork   = "network"
	KindContainer = "container"
)

// An Item is a thing to be copied.
type Item struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes; -1 is not known; 0 for what has none
	// There says that it has arrived before.
	There bool `json:"there"`
}

// A Leftover is a thing that stays behind.
type Leftover struct {
	Kind string `json:"kind"`
	Name string `json:"name"` // printable
	Why  string `json:"why"`
}

// A Plan is what will be copied, in that order, and what not.
type Plan struct {
	Items []Item     `json:"items"`
	Left  []Leftover `json:"left"`

	from, to   *engine
	images     []*image
	volumes    []*volume
	networks   []*network
	containers []*definition
	journal    *journal
}

// An engine is one side of a migration.
type engine struct {
	*dockerenv.Engine
	id         string
	images     map[string]*image // by ID
	tags       map[string]string // image IDs by tag
	volumes    map[string]*volume
	networks   map[string]*network // by name
	containers map[string]string   // IDs by name
	running    map[string]bool     // volumes that containers which run have
	source
	swarm bool
}

// An image is one as GET /images/json lists it.
type image struct {
	ID       string `json:"Id"`
	RepoTags []string
	Size     int64
}

// A volume is one as GET /volumes lists it.
type volume struct {
	Name      string
	Driver    string
	CreatedAt string
	Labels    map[string]string
	Options   map[string]string
	size      int64 // -1 is not known
}

// A network is one as GET /networks lists it.
type network struct {
	ID         string `json:"Id"`
	Name       string
	Driver     string
	Scope      string
	Internal   bool
	Attachable bool
	EnableIPv6 bool
	Ingress    bool
	ConfigOnly bool
	IPAM       object
	Options    map[string]string
	Labels     map[string]string
}

// Prepare looks at both engines and makes a plan. The journal, in dir, is the machine's; a
// plan has to be closed. The error is a *SourceError if the engine to copy from does not
// answer, or with an error.
func Prepare(ctx context.Context, from, to *dockerenv.Engine, dir string, what Selection) (*Plan, error) {
	there, err := look(ctx, from, silence)
	if err != nil {
		return nil, &SourceError{err}
	}
	here, err := look(ctx, to, silence)
	if err != nil {
		return nil, fmt.Errorf("looking at the machine's engine: %w", err)
	}
	if there.id == here.id {
		return nil, errors.New("both are the same engine")
	}
	j, err := openJournal(dir, there.id)
	if err != nil {
		return nil, err
	}
	p := &Plan{Items: []Item{}, Left: []Leftover{}, from: there, to: here, journal: j}
	if err := p.choose(ctx, what.settle()); err != nil {
		p.Close()
		return nil, &SourceError{err}
	}
	return p, nil
}

// A SourceError says why the engine to copy from could not be looked at.
type SourceError struct{ cause error }

func (e *SourceError) Error() string { return "looking at the engine to copy from: " + e.cause.Error() }

func (e *SourceError) Unwrap() error { return e.cause }

// Close lets others migrate.
func (p *Plan) Close() { p.journal.close() }

// silence is how long an engine may take to say what it has.
const silence = time.Minute

// look asks an engine for all that it has but its containers' definitions, for so long at
// most.
func look(ctx context.Context, e *dockerenv.Engine, patience time.Duration) (*engine, error) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var info struct {
		ID, Name, OSType, DefaultRuntime, CgroupVersion string
		Swarm                                           struct{ LocalNodeState string }
	}
	var images []image
	var volumes struct{ Volumes []volume }
	var networks []network
	var containers []struct {
		ID     string `json:"Id"`
		Names  []string
		State  string
		Mounts []mount
	}
	for path, to := range map[string]any{"/info": &info, "/images/json": &images, "/volumes": &volumes, "/networks": &networks, "/containers/json": &containers} {
		query := url.Values{}
		if path == "/containers/json" {
			query.Set("all", "1")
		}
		err := e.Call(asking, http.MethodGet, path, query, nil, to)
		if err != nil && asking.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("it does not answer within %v", patience)
		}
		if err != nil {
			return nil, err
		}
	}
	if info.OSType != "linux" || info.ID == "" {
		return nil, fmt.Errorf("it is no engine for Linux but for %.40q", info.OSType)
	}
	l := &engine{Engine: e, id: info.ID, images: map[string]*image{}, tags: map[string]string{}, volumes: map[string]*volume{}, networks: map[string]*network{},
		containers: map[string]string{}, running: map[string]bool{}, swarm: info.Swarm.LocalNodeState == "active",
		source: source{info.Name, info.DefaultRuntime, info.CgroupVersion, map[string]string{}, map[string]string{}}}
	for n := range images {
		i := &images[n]
		l.images[i.ID] = i
		for _, tag := range i.RepoTags {
			l.tags[tag] = i.ID
		}
	}
	for n := range volumes.Volumes {
		v := &volumes.Volumes[n]
		v.size = -1
		l.volumes[v.Name] = v
	}
	for i := range networks {
		n := &networks[i]
		l.networks[n.Name] = n
		l.networkNames[n.ID] = n.Name
	}
	for _, c := range containers {
		for _, name := range c.Names {
			if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") { // others are links
				l.containers[name], l.names[c.ID] = c.ID, name
			}
		}
		for _, m := range c.Mounts {
			if c.State == "running" {
				l.running[m.Name] = true
			}
		}
	}
	return l, nil
}

// choose fills the plan.
func (p *Plan) choose(ctx context.Context, what Selection) error {
	if err := p.chooseContainers(ctx, what.Containers); err != nil {
		return err
	}
	needed := map[string]bool{} // images by ID, volumes and networks by name
	for _, c := range p.containers {
		needed[c.imageID] = true
		for _, name := range slices.Concat(c.volumes, c.networks) {
			needed[name] = true
		}
	}
	p.chooseImages(what.Images, needed)
	if err := p.chooseVolumes(ctx, what.Volumes, needed); err != nil {
		return err
	}
	p.chooseNetworks(needed)
	p.itemize()
	if p.from.swarm && !what.Containers.none && !what.Containers.named() {
		return p.leaveServices(ctx)
	}
	return nil
}

// leave notes what stays behind.
func (p *Plan) leave(kind, name, why string) {
	p.Left = append(p.Left, Leftover{kind, dockerenv.Printable(name), dockerenv.Printable(why)})
}

func (p *Plan) chooseContainers(ctx context.Context, filter Filter) error {
	for _, name := range slices.Sorted(maps.Keys(p.from.containers)) {
		if !filter.match(name) {
			continue
		}
		var c inspected
		err := p.from.Call(ctx, http.MethodGet, "/containers/"+url.PathEscape(p.from.containers[name])+"/json", nil, nil, &c)
		if refused := (*dockerenv.APIError)(nil); errors.As(err, &refused) && refused.Code == http.StatusNotFound {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		var labels map[string]string
		if read(c.Config, "Labels", &labels) == nil && labels[helperLabel] != "" {
			continue // of a migration, perhaps one that goes on beside this one
		}
		d, err := p.from.define(c)
		if err != nil {
			p.leave(KindContainer, name, err.Error())
			continue
		}
		p.containers = append(p.containers, d)
	}
	return nil
}

func (p *Plan) chooseImages(filter Filter, needed map[string]bool) {
	for _, i := range slices.SortedFunc(maps.Values(p.from.images), func(a, b *image) int {
		return cmp.Or(strings.Compare(a.name(), b.name()), strings.Compare(a.ID, b.ID))
	}) {
		i.RepoTags = slices.DeleteFunc(i.RepoTags, func(tag string) bool { return tag == "<none>:<none>" || strings.HasPrefix(tag, helperRepo+":") })
		// Without a name it is what was left of a build, unless something needs it.
		wanted := len(i.RepoTags) > 0 && filter.match(append(i.RepoTags, trimLatest(i.RepoTags)...)...)
		if !wanted && (!needed[i.ID] || filter.set && filter.none) {
			continue
		}
		if !idPattern.MatchString(i.ID) || slices.ContainsFunc(i.RepoTags, func(tag string) bool { return !tagPattern().MatchString(tag) }) {
			p.leave(KindImage, i.name(), "its name cannot be")
			continue
		}
		p.images = append(p.images, i)
	}
}

// name is what an image is called for people.
func (i *image) name() string {
	if len(i.RepoTags) > 0 {
		return i.RepoTags[0]
	}
	return i.ID[:min(len(i.ID), len("sha256:")+12)]
}

func trimLatest(tags []string) []string {
	var short []string
	for _, tag := range tags {
		short = append(short, strings.TrimSuffix(tag, ":latest"))
	}
	return short
}

func (p *Plan) chooseVolumes(ctx context.Context, filter Filter, needed map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(p.from.volumes)) {
		v := p.from.volumes[name]
		if !filter.match(name) && (!needed[name] || filter.set && filter.none) {
			continue
		}
		switch {
		case !objectPattern().MatchString(name):
			p.leave(KindVolume, name, "its name cannot be")
		case v.Driver != "local":
			p.leave(KindVolume, name, fmt.Sprintf("it is of the driver %.40q", v.Driver))
		case len(v.Options) > 0:
			p.leave(KindVolume, name, fmt.Sprintf("it is a mount of %.80q", cmp.Or(v.Options["device"], v.Options["type"])))
		default:
			p.volumes = append(p.volumes, v)
		}
	}
	if len(p.volumes) == 0 {
		return nil
	}
	// Engines before 23 count everything, whatever is asked for; some do not count at all.
	var usage struct {
		Volumes []struct {
			Name      string
			UsageData struct{ Size int64 }
		}
	}
	if err := p.from.Call(ctx, http.MethodGet, "/system/df", url.Values{"type": {"volume"}}, nil, &usage); err != nil {
		return ctx.Err()
	}
	for _, u := range usage.Volumes {
		if v := p.from.volumes[u.Name]; v != nil {
			v.size = u.UsageData.Size
		}
	}
	return nil
}

func (p *Plan) chooseNetworks(needed map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(p.from.networks)) {
		n := p.from.networks[name]
		if !needed[name] || slices.Contains(predefined, name) {
			continue
		}
		if n.Driver != "bridge" || n.Scope != "local" || n.Ingress || n.ConfigOnly {
			p.leave(KindNetwork, name, fmt.Sprintf("it is of the driver %.40q", n.Driver))
			continue
		}
		p.networks = append(p.networks, n)
	}
}

// leaveServices lists the services of a swarm.
func (p *Plan) leaveServices(ctx context.Context) error {
	var services []struct{ Spec struct{ Name string } }
	if err := p.from.Call(ctx, http.MethodGet, "/services", nil, nil, &services); err != nil {
		if refused := (*dockerenv.APIError)(nil); errors.As(err, &refused) { // only managers know
			p.leave("services", "of the swarm", "the engine is a worker and does not know them")
			return nil
		}
		return err
	}
	for _, s := range services {
		p.leave("service", s.Spec.Name, "swarm services are deployed, not copied")
	}
	return nil
}

// itemize lists what was chosen.
func (p *Plan) itemize() {
	for _, i := range p.images {
		_, there := p.imageHere(i.ID)
		p.Items = append(p.Items, Item{KindImage, i.name(), i.Size, there && len(p.missingTags(i)) == 0})
	}
	for _, v := range p.volumes {
		p.Items = append(p.Items, Item{KindVolume, v.Name, v.size, p.volumeHere(v.Name)})
	}
	for _, n := range p.networks {
		p.Items = append(p.Items, Item{KindNetwork, n.Name, 0, p.to.networks[n.Name] != nil})
	}
	for _, c := range p.containers {
		_, there := p.to.containers[c.name]
		p.Items = append(p.Items, Item{KindContainer, c.name, 0, there && p.journal.Containers[c.name].Definition == c.sum()})
	}
}

// Empty says that there is nothing to do.
func (p *Plan) Empty() bool {
	return !slices.ContainsFunc(p.Items, func(i Item) bool { return !i.There })
}

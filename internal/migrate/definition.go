package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

// object is a JSON object of which only some members are looked at.
type object = map[string]json.RawMessage

// An inspected container is what GET /containers/ID/json says of it.
type inspected struct {
	ID     string `json:"Id"`
	Name   string // with a slash before it
	Image  string // ID
	State  struct{ Running bool }
	Config object
	// HostConfig and Config are what the container was made of.
	HostConfig      object
	Mounts          []mount
	NetworkSettings struct{ Networks map[string]object }
}

// A mount is a directory or volume that a container has.
type mount struct {
	Type        string
	Name        string // of a volume
	Source      string
	Destination string
	Driver      string
	Mode        string
	RW          bool
}

// A definition is what a container is made of in another engine.
type definition struct {
	name     string
	imageID  string
	imageRef string // as it was asked for
	running  bool
	volumes  []string // that it has, by name
	networks []string // of the user that it is in, by name
	after    []string // containers that have to be there before it

	// What is sent to make it, but for the image.
	config, host object
	endpoints    map[string]object
}

// A source is what has to be known of an engine to read its containers.
type source struct {
	hostname       string
	defaultRuntime string
	cgroupVersion  string
	names          map[string]string // of containers by ID
	networkNames   map[string]string // of networks by ID
}

// carriedSockets are files of the host that a machine has as well.
var carriedSockets = []string{"/var/run/docker.sock", "/run/docker.sock"}

// define reads of what a container was made. The error says why it cannot be carried.
func (s source) define(c inspected) (*definition, error) {
	d := &definition{
		name: strings.TrimPrefix(c.Name, "/"), imageID: c.Image, running: c.State.Running,
		config: maps.Clone(c.Config), host: maps.Clone(c.HostConfig), endpoints: map[string]object{},
	}
	if !objectPattern().MatchString(d.name) || !hexPattern.MatchString(c.ID) || !idPattern.MatchString(c.Image) || c.Config == nil || c.HostConfig == nil {
		return nil, errors.New("what its engine says of it cannot be")
	}
	for _, step := range []func(*definition, inspected) error{s.checkOrigin, s.checkDevices, s.mounts, s.namespaces, s.links, s.settings, s.attachments} {
		if err := step(d, c); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// body is the request that makes the container of an image.
func (d *definition) body(image string) object {
	body := maps.Clone(d.config)
	body["Image"] = raw(image)
	body["HostConfig"] = raw(d.host)
	body["NetworkingConfig"] = raw(map[string]any{"EndpointsConfig": d.endpoints})
	return body
}

func (s source) checkOrigin(d *definition, _ inspected) error {
	if err := read(d.config, "Image", &d.imageRef); err != nil {
		return err
	}
	var labels map[string]string
	if err := read(d.config, "Labels", &labels); err != nil {
		return err
	}
	if service := labels["com.docker.swarm.service.name"]; service != "" {
		return fmt.Errorf("it is a task of the swarm service %s: deploy that again", dockerenv.Printable(service))
	}
	return nil
}

func (s source) checkDevices(d *definition, _ inspected) error {
	var devices []struct{ PathOnHost string }
	if err := read(d.host, "Devices", &devices); err != nil {
		return err
	}
	if len(devices) > 0 {
		return fmt.Errorf("it uses the host's device %.200q", devices[0].PathOnHost)
	}
	for _, key := range []string{"DeviceRequests", "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"} {
		var list []json.RawMessage
		if err := read(d.host, key, &list); err != nil {
			return err
		}
		if len(list) > 0 {
			return fmt.Errorf("it uses devices of the host (%s)", key)
		}
	}
	return nil
}

// mounts sees to it that the container finds each of its volumes under its name, also those
// that had none but docker's, or came from another container.
func (s source) mounts(d *definition, c inspected) error {
	var binds []string
	var asked []object
	if err := errors.Join(read(d.host, "Binds", &binds), read(d.host, "Mounts", &asked)); err != nil {
		return err
	}
	named := map[string]bool{} // destinations that the definition names
	for _, bind := range binds {
		from, rest, _ := strings.Cut(bind, ":")
		to, _, _ := strings.Cut(rest, ":")
		named[to] = true
		if strings.HasPrefix(from, "/") && !slices.Contains(carriedSockets, from) {
			return &hostMountError{from, to}
		}
	}
	for _, m := range asked {
		var kind, from, to string
		if err := errors.Join(read(m, "Type", &kind), read(m, "Source", &from), read(m, "Target", &to)); err != nil {
			return err
		}
		named[to] = true
		if kind == "bind" && !slices.Contains(carriedSockets, from) {
			return &hostMountError{from, to}
		}
	}
	for _, m := range c.Mounts {
		switch {
		case m.Type == "tmpfs":
		case m.Type == "volume" && m.Driver != "local":
			return fmt.Errorf("its volume %.80q is of the driver %.40q", m.Name, m.Driver)
		case m.Type == "volume" && objectPattern().MatchString(m.Name):
			d.volumes = append(d.volumes, m.Name)
			if !named[m.Destination] {
				binds = append(binds, bindOf(m))
			}
		case m.Type == "bind" && named[m.Destination]: // see above
		default:
			return &hostMountError{m.Source, m.Destination}
		}
	}
	for i, m := range asked {
		var kind, source, to string
		if err := errors.Join(read(m, "Type", &kind), read(m, "Source", &source), read(m, "Target", &to)); err != nil {
			return err
		}
		if at := slices.IndexFunc(c.Mounts, func(m mount) bool { return m.Destination == to }); kind == "volume" && source == "" && at >= 0 {
			asked[i] = maps.Clone(m)
			asked[i]["Source"] = raw(c.Mounts[at].Name)
		}
	}
	slices.Sort(d.volumes)
	d.volumes = slices.Compact(d.volumes)
	set(d.host, "Binds", binds)
	set(d.host, "Mounts", asked)
	delete(d.host, "VolumesFrom")
	return nil
}

// A hostMountError says that a container needs a directory of its engine's host.
type hostMountError struct{ from, to string }

func (e *hostMountError) Error() string {
	return fmt.Sprintf("it mounts %.200q of its host at %.200q", e.from, e.to)
}

func bindOf(m mount) string {
	if m.RW {
		return m.Name + ":" + m.Destination
	}
	return m.Name + ":" + m.Destination + ":ro"
}

// namespaces names the containers whose namespaces it shares, where it has their IDs.
func (s source) namespaces(d *definition, _ inspected) error {
	for _, key := range []string{"NetworkMode", "IpcMode", "PidMode"} {
		var mode string
		if err := read(d.host, key, &mode); err != nil {
			return err
		}
		if other, ok := strings.CutPrefix(mode, "container:"); ok {
			if name, ok := s.names[other]; ok {
				other = name
			}
			if !objectPattern().MatchString(other) {
				return fmt.Errorf("it shares a namespace of a container that is gone (%s)", key)
			}
			d.host[key] = raw("container:" + other)
			d.after = append(d.after, other)
		} else if name, ok := s.networkNames[mode]; ok && key == "NetworkMode" {
			d.host[key] = raw(name)
		}
	}
	return nil
}

// links writes links as the request has them: /db:/web/alias becomes db:alias.
func (s source) links(d *definition, _ inspected) error {
	var links []string
	if err := read(d.host, "Links", &links); err != nil {
		return err
	}
	for i, link := range links {
		to, alias, ok := strings.Cut(link, ":")
		to, alias = strings.TrimPrefix(to, "/"), alias[strings.LastIndex(alias, "/")+1:]
		if !ok || !objectPattern().MatchString(to) {
			return errors.New("its links cannot be read")
		}
		links[i] = to + ":" + alias
		d.after = append(d.after, to)
	}
	set(d.host, "Links", links)
	return nil
}

// settings drops what is the old engine's, and not the container's.
func (s source) settings(d *definition, c inspected) error {
	var hostname, runtime string
	if err := errors.Join(read(d.config, "Hostname", &hostname), read(d.host, "Runtime", &runtime)); err != nil {
		return err
	}
	var mode string
	if err := read(d.host, "NetworkMode", &mode); err != nil {
		return err
	}
	inherits := strings.HasPrefix(mode, "container:")
	if hostname == c.ID[:12] || hostname == s.hostname || inherits { // drawn, not given
		delete(d.config, "Hostname")
	}
	if inherits { // these are refused then, though an engine says them: they are the image's
		delete(d.config, "Domainname")
		delete(d.config, "ExposedPorts")
	}
	if runtime == s.defaultRuntime {
		delete(d.host, "Runtime")
	}
	if s.cgroupVersion == "1" { // where "host" is the default
		delete(d.host, "CgroupnsMode")
	}
	delete(d.host, "ContainerIDFile")
	return nil
}

// predefined are the networks that every engine has.
var predefined = []string{"bridge", "host", "none", "default"}

// attachments are the container's in networks of the user: what was asked for, and not what
// came of it.
func (s source) attachments(d *definition, c inspected) error {
	var mac string
	if err := read(d.config, "MacAddress", &mac); err != nil {
		return err
	}
	delete(d.config, "MacAddress")
	for name, was := range c.NetworkSettings.Networks {
		if slices.Contains(predefined, name) {
			continue
		}
		if !networkPattern().MatchString(name) {
			return errors.New("it is in a network whose name cannot be")
		}
		endpoint := object{}
		for _, key := range []string{"IPAMConfig", "DriverOpts"} {
			if value, ok := was[key]; ok && string(value) != "null" {
				endpoint[key] = value
			}
		}
		var aliases []string
		if err := read(was, "Aliases", &aliases); err != nil {
			return err
		}
		aliases = slices.DeleteFunc(aliases, func(alias string) bool { return alias == c.ID[:12] })
		set(endpoint, "Aliases", aliases)
		d.endpoints[name] = endpoint
		d.networks = append(d.networks, name)
	}
	slices.Sort(d.networks)
	if mode := ""; mac != "" && read(d.host, "NetworkMode", &mode) == nil {
		if slices.Contains(predefined, mode) {
			d.endpoints[mode] = object{}
		}
		if endpoint := d.endpoints[mode]; endpoint != nil {
			endpoint["MacAddress"] = raw(mac)
		}
	}
	return nil
}

// read reads a member of an object, which may be missing or null.
func read(o object, key string, to any) error {
	value, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(value, to); err != nil {
		return fmt.Errorf("its %s cannot be read", key)
	}
	return nil
}

// set sets a member to a list, none if that is empty.
func set[T any](o object, key string, list []T) {
	delete(o, key)
	if len(list) > 0 {
		o[key] = raw(list)
	}
}

func raw(value any) json.RawMessage {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // of values that came from JSON
	}
	return data
}

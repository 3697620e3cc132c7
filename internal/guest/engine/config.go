package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Paths that others need to know: dockerd's socket, and the runtime that starts containers.
const (
	Socket = "/var/run/docker.sock"
	Crun   = "/usr/bin/crun"
)

// Paths of the engine.
const (
	containerdSocket = "/run/containerd/containerd.sock"
	daemonJSON       = "/etc/docker/daemon.json"
	userDaemonJSON   = "/var/lib/boot2docker/etc/docker/daemon.json"
	engineIDFile     = "/var/lib/docker/engine-id"
	containerdConfig = "/etc/containerd/config.toml"
	shimPath         = "/usr/bin/hyve-docker-proxy"
)

// A dockerdConfig is all that dockerd is told: its flags and its daemon.json.
type dockerdConfig struct {
	flags []string
	file  []byte
	// notes are what was left out and why, for the log.
	notes []string
}

// listFlags are dockerd's repeatable flags by their key in daemon.json. They go
// into the file, where those that dockerd can reload may change later.
var listFlags = map[string]string{
	"label":                            "labels",
	"registry-mirror":                  "registry-mirrors",
	"insecure-registry":                "insecure-registries",
	"dns":                              "dns",
	"dns-opt":                          "dns-opts",
	"dns-option":                       "dns-opts",
	"dns-search":                       "dns-search",
	"exec-opt":                         "exec-opts",
	"storage-opt":                      "storage-opts",
	"cdi-spec-dir":                     "cdi-spec-dirs",
	"authorization-plugin":             "authorization-plugins",
	"allow-nondistributable-artifacts": "allow-nondistributable-artifacts",
}

// flagKeys are the keys in daemon.json of repeatable flags that stay flags; both
// at once is an error to dockerd.
var flagKeys = map[string]string{
	"log-opt":              "log-opts",
	"default-ulimit":       "default-ulimits",
	"default-address-pool": "default-address-pools",
	"default-network-opt":  "default-network-opts",
}

// composeDockerdConfig merges, from weak to strong: hyve's own settings, the
// user's daemon.json, the options of the machine, and what nobody may change.
// user is empty where there is no such file.
func composeDockerdConfig(id guestapi.Identity, engine guestapi.Engine, user []byte) (dockerdConfig, error) {
	var c dockerdConfig
	keys := defaultKeys(id)
	if len(user) > 0 {
		var theirs map[string]any
		if err := json.Unmarshal(user, &theirs); err != nil {
			return c, fmt.Errorf("reading %s: %w", userDaemonJSON, err)
		}
		c.mergeUser(keys, theirs)
		if theirs["host-gateway-ips"] != nil { // dockerd 28's name of the same
			delete(keys, "host-gateway-ip")
		}
	}
	c.applyOptions(keys, engine.Options)
	addToList(keys, "labels", id.Labels...)
	addToList(keys, "registry-mirrors", id.RegistryMirrors...)
	addToList(keys, "insecure-registries", id.InsecureRegistries...)
	keys["userland-proxy-path"] = shimPath
	addRuntime(keys, "crun", Crun)
	file, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return c, fmt.Errorf("composing %s: %w", daemonJSON, err)
	}
	c.file = append(file, '\n')
	c.flags = append([]string{
		"--config-file=" + daemonJSON,
		"--host=unix://" + Socket,
		"--containerd=" + containerdSocket,
		"--group=docker",
	}, c.flags...)
	return c, nil
}

// defaultKeys are hyve's settings where nobody says otherwise.
func defaultKeys(id guestapi.Identity) map[string]any {
	keys := map[string]any{
		"data-root":      "/var/lib/docker",
		"storage-driver": "overlay2",
		"exec-opts":      []any{"native.cgroupdriver=cgroupfs"},
		// A C program; runc takes half as long again, most of it to start itself.
		"default-runtime": "crun",
		// Said even where they say nothing: a reload leaves alone what is absent, and
		// these change under a running engine.
		"live-restore":        false,
		"labels":              []any{},
		"registry-mirrors":    []any{},
		"insecure-registries": []any{},
	}
	if host := id.Network.Host; host != "" {
		keys["host-gateway-ip"] = host // what --add-host NAME:host-gateway means
	}
	if mtu := id.Network.MTU; mtu > 0 {
		keys["mtu"] = mtu
		keys["default-network-opts"] = map[string]any{
			"bridge": map[string]any{"com.docker.network.driver.mtu": strconv.Itoa(mtu)},
		}
	}
	if proxies := daemonProxies(id.Proxies); len(proxies) > 0 {
		keys["proxies"] = proxies
	}
	return keys
}

// daemonProxies are the proxies under the names that daemon.json knows.
func daemonProxies(env map[string]string) map[string]any {
	proxies := map[string]any{}
	for variable, key := range map[string]string{
		"HTTP_PROXY": "http-proxy", "HTTPS_PROXY": "https-proxy", "NO_PROXY": "no-proxy",
	} {
		if v := env[variable]; v != "" {
			proxies[key] = v
		}
	}
	return proxies
}

func (c *dockerdConfig) mergeUser(keys, theirs map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(theirs)) {
		if slices.Contains(guestapi.OwnOptions, key) {
			c.note("leaving out %q of %s: it belongs to hyve", key, userDaemonJSON)
			continue
		}
		if list, ok := theirs[key].([]any); ok && key == "exec-opts" {
			keys[key] = append(keys[key].([]any), list...)
			continue
		}
		keys[key] = theirs[key]
	}
	if features, ok := keys["features"].(map[string]any); ok && features["containerd-snapshotter"] == true && theirs["storage-driver"] == nil {
		delete(keys, "storage-driver") // containerd's snapshotters have other names
	}
}

// applyOptions turns the machine's options into keys and flags.
func (c *dockerdConfig) applyOptions(keys map[string]any, options []string) {
	for _, option := range options {
		option = strings.TrimLeft(option, "-")
		name, value, hasValue := strings.Cut(option, "=")
		if _, owned := guestapi.OwnedOption(option); owned {
			c.note("leaving out the engine option %q: it belongs to hyve", option)
			continue
		}
		if key := listFlags[name]; key != "" && hasValue {
			addToList(keys, key, value)
			continue
		}
		if runtime, path, ok := strings.Cut(value, "="); ok && name == "add-runtime" {
			addRuntime(keys, runtime, path)
			continue
		}
		if key := flagKeys[name]; key != "" {
			delete(keys, key)
		}
		if name == "http-proxy" || name == "https-proxy" || name == "no-proxy" {
			// One of them as a flag forbids the key "proxies" as a whole.
			c.note("the engine option %q replaces the machine's proxies", name)
			delete(keys, "proxies")
		}
		delete(keys, name)
		c.flags = append(c.flags, "--"+option)
	}
}

func (c *dockerdConfig) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// addRuntime adds a runtime of containers to those that there are.
func addRuntime(keys map[string]any, name, path string) {
	runtimes, ok := keys["runtimes"].(map[string]any)
	if !ok {
		runtimes = map[string]any{}
		keys["runtimes"] = runtimes
	}
	runtimes[name] = map[string]any{"path": path}
}

// addToList appends what the list under key does not hold yet. Of labels with one
// name the last counts: dockerd refuses to start with two.
func addToList(keys map[string]any, key string, values ...string) {
	list, _ := keys[key].([]any)
	for _, v := range values {
		if name, _, ok := strings.Cut(v, "="); ok && key == "labels" {
			list = slices.DeleteFunc(slices.Clone(list), func(old any) bool {
				s, _ := old.(string)
				return strings.HasPrefix(s, name+"=")
			})
		}
		if !slices.Contains(list, any(v)) {
			list = append(list, v)
		}
	}
	if len(list) > 0 {
		keys[key] = list
	}
}

// disabledPlugins of containerd are those that an engine without Kubernetes has
// no use for; each costs time at the start.
var disabledPlugins = []string{
	"io.containerd.grpc.v1.cri",
	"io.containerd.nri.v1.nri",
	"io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.native",
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp",
	// Of containerd 2, where Kubernetes' part is several.
	"io.containerd.cri.v1.images",
	"io.containerd.cri.v1.runtime",
	"io.containerd.differ.v1.erofs",
	"io.containerd.monitor.container.v1.restart",
	"io.containerd.podsandbox.controller.v1.podsandbox",
	"io.containerd.grpc.v1.sandbox-controllers", // which would look for that
}

// composeContainerdConfig returns containerd's config.toml, in the version that
// 1.x and 2.x both read.
func composeContainerdConfig() []byte {
	var b strings.Builder
	b.WriteString("version = 2\n")
	b.WriteString("root = \"/var/lib/containerd\"\n")
	b.WriteString("state = \"/run/containerd\"\n")
	b.WriteString("disabled_plugins = [\n")
	for _, plugin := range disabledPlugins {
		fmt.Fprintf(&b, "  %q,\n", plugin)
	}
	b.WriteString("]\n\n[grpc]\n  address = \"" + containerdSocket + "\"\n")
	b.WriteString("\n[debug]\n  level = \"warn\"\n")
	return []byte(b.String())
}

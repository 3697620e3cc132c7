package dockermachine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

// checkTimeout bounds how long an engine may take to show its certificate.
const checkTimeout = 20 * time.Second

func (c *client) envWord() *word {
	var swarm, unset, noProxy bool
	var shell string
	f := newFlags()
	f.BoolVar(&swarm, "swarm", false, "Display the Swarm config instead of the Docker daemon")
	f.StringVar(&shell, "shell", "", "Force environment to be configured for a specified shell: [fish, cmd, powershell, tcsh, emacs], default is auto-detect")
	f.BoolVarP(&unset, "unset", "u", false, "Unset variables instead of setting them")
	f.BoolVar(&noProxy, "no-proxy", false, "Add machine IP to NO_PROXY environment variable")
	return &word{name: "env", usage: "Display the commands to set up the environment for the Docker client",
		description: "Argument is a machine name.", flags: f,
		run: func(ctx context.Context, args []string) error {
			c.log = c.stderr // a shell obeys the rest
			var settings []dockerenv.Setting
			var err error
			if unset {
				settings, err = c.unset(args, noProxy)
			} else {
				settings, err = c.set(ctx, args, swarm, noProxy)
			}
			if err != nil {
				return err
			}
			if shell == "" {
				shell = dockerenv.DetectShell(c.getenv)
			}
			if shell == "" {
				fmt.Fprint(c.stderr, "The default lines below are for a sh/bash shell, you can specify the shell you're using, with the --shell flag.\n\n")
				return message("Error: Unknown shell")
			}
			script, err := dockerenv.Script(shell, settings, c.args)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.stdout, script)
			return err
		}}
}

func (c *client) set(ctx context.Context, args []string, swarm, noProxy bool) ([]dockerenv.Setting, error) {
	h, err := c.one(args)
	if err != nil {
		return nil, err
	}
	url, err := h.reach(ctx, swarm)
	if err != nil {
		return nil, message("Error checking TLS connection: %w", err)
	}
	settings := dockerenv.Settings(url, h.certs(), h.name)
	if noProxy {
		address, err := h.address(ctx)
		if err != nil {
			return nil, message("Error getting host IP: %w", err)
		}
		settings = append(settings, dockerenv.NoProxy(c.getenv, address))
	}
	return settings, nil
}

// unset takes back what set did. docker-machine takes back the proxies of its own
// machines only in name.
func (c *client) unset(args []string, noProxy bool) ([]dockerenv.Setting, error) {
	if len(args) > 0 {
		return nil, message("Error: Expected no machine name when the -u flag is present")
	}
	settings := dockerenv.Unsettings()
	if !noProxy {
		return settings, nil
	}
	addresses, err := c.home.Addresses()
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.String()
	}
	names, err := engineNames(c.home)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if e, err := loadEngine(c.home, name); err == nil {
			texts = append(texts, e.host())
		}
	}
	return append(settings, dockerenv.WithoutNoProxy(c.getenv, texts...)), nil
}

func (c *client) configWord() *word {
	var swarm bool
	f := newFlags()
	f.BoolVar(&swarm, "swarm", false, "Display the Swarm config instead of the Docker daemon")
	return &word{name: "config", usage: "Print the connection config for machine", description: "Argument is a machine name.", flags: f,
		run: func(ctx context.Context, args []string) error {
			c.log = c.stderr
			h, err := c.target(args)
			if err != nil {
				return err
			}
			url, err := h.reach(ctx, swarm)
			if err != nil {
				return message("Error running connection boilerplate: %w", err)
			}
			_, err = fmt.Fprintln(c.stdout, strings.Join(dockerenv.Flags(url, h.certs()), "\n"))
			return err
		}}
}

// reach makes sure that a docker client would be let in at a machine's engine, and returns
// its URL. An engine of hyve's own is not dialled for that, since scripts ask often: its
// supervisor knows that it answers, and hyve sees to its certificates.
func (h *host) reach(ctx context.Context, swarm bool) (url string, err error) {
	if url, err = h.url(ctx); err != nil {
		return "", err
	}
	if swarm {
		return "", fmt.Errorf("%q is not a swarm master. The --swarm flag is intended for use with swarm masters", h.name)
	}
	if h.machine != nil {
		err = dockerenv.CheckCertificates(h.certs())
	} else {
		err = h.dial(ctx, url)
	}
	if err != nil {
		return "", message("Error checking and/or regenerating the certs: There was an error validating certificates for host %q: %w\n"+
			"You can attempt to regenerate them using '%s regenerate-certs [name]'.\n"+
			"Be advised that this will trigger a Docker daemon restart which might stop running containers.\n",
			strings.TrimPrefix(url, "tcp://"), err, Name)
	}
	return url, nil
}

// dial makes sure that the engine answers.
func (h *host) dial(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := dockerenv.PingTLS(ctx, url, h.certs())
	return err
}

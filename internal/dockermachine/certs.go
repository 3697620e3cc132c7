package dockermachine

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
	"github.com/hyve-vm/hyve/internal/sshclient"
)

func (c *client) provisionWord() *word {
	return &word{name: "provision", usage: "Re-provision existing machines", flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			return c.each(args, func(h *host) error {
				if err := h.mine("provisioned"); err != nil {
					return err
				}
				return c.provision(ctx, h, lifecycle.Provision)
			})
		}}
}

// provision does as docker-machine: it logs in, and gives the machine what it is to have.
func (c *client) provision(ctx context.Context, h *host, give func(context.Context, *machine.Machine) error) error {
	if _, err := h.up(ctx); err != nil {
		return err
	}
	if err := c.greet(ctx, h); err != nil {
		return err
	}
	c.inform("Copying certs to the local machine directory...")
	c.inform("Copying certs to the remote machine...")
	c.inform("Setting Docker configuration on the remote daemon...")
	err := give(ctx, h.machine)
	if errors.Is(err, control.ErrNoAnswer) {
		return errNotRunning
	}
	if err != nil || h.look(ctx).version != "" {
		return err
	}
	return c.startEngine(ctx, h)
}

// startEngine starts the engine of a machine that runs without one.
func (c *client) startEngine(ctx context.Context, h *host) error {
	status, err := sshclient.Run(ctx, h.machine, "sudo /etc/init.d/docker start", sshclient.Streams{})
	if err == nil && status != 0 {
		err = h.look(ctx).err // says more than the status
	}
	if err != nil {
		return message("Error starting the engine: %w", err)
	}
	return nil
}

func (c *client) regenerateWord() *word {
	var force, clientCerts bool
	f := newFlags()
	f.BoolVarP(&force, "force", "f", false, "Force rebuild and do not prompt")
	f.BoolVar(&clientCerts, "client-certs", false, "Also regenerate client certificates and CA.")
	return &word{name: "regenerate-certs", usage: "Regenerate TLS Certificates for a machine", description: severalNames, flags: f,
		run: func(ctx context.Context, args []string) error {
			if !force {
				sure, err := c.confirm("Regenerate TLS machine certs?  Warning: this is irreversible.")
				if err != nil || !sure {
					return err
				}
			}
			c.inform("Regenerating TLS certificates")
			// What all machines share is done once, and only if each that is named is there.
			if err := c.each(args, func(h *host) error { return h.mine("given certificates") }); err != nil {
				return err
			}
			if clientCerts {
				c.inform("Regenerating local certificates")
				if err := c.bootstrap(); err != nil {
					return err
				}
				if err := lifecycle.RenewClient(ctx, c.home); err != nil {
					return err
				}
			}
			return c.each(args, func(h *host) error { return c.regenerate(ctx, h) })
		}}
}

// regenerate gives a machine a new certificate: one that runs has it at once, another
// one when it starts.
func (c *client) regenerate(ctx context.Context, h *host) error {
	switch now, err := h.up(ctx); {
	case err == nil:
		return c.provision(ctx, h, lifecycle.RenewServer)
	case now.err != nil: // which no certificate mends
		return err
	}
	return lifecycle.RenewServer(ctx, h.machine)
}

// bootstrap makes the CA and the client's certificate where they are missing, and says so.
func (c *client) bootstrap() error {
	dir := c.home.PKIDir()
	if _, err := os.Stat(filepath.Join(dir, "ca.pem")); os.IsNotExist(err) {
		c.inform("Creating CA: %s", filepath.Join(dir, "ca.pem"))
	}
	ca, err := pki.OpenCA(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "cert.pem")); os.IsNotExist(err) {
		c.inform("Creating client certificate: %s", filepath.Join(dir, "cert.pem"))
	}
	_, err = ca.Client()
	return err
}

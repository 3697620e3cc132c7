//go:build !linux

package confine

import "os/exec"

// Start starts the program as it is: nothing here confines it but its descriptors and its
// environment.
func (p Plan) Start() (*exec.Cmd, Level, error) {
	if p.Also != nil {
		if err := p.Also(); err != nil {
			return nil, Level{}, err
		}
	}
	cmd := p.Command()
	return cmd, Level{}, cmd.Start()
}

// Possible is how far programs can be confined here.
func Possible() Level { return Level{} }

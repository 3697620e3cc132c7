package driver

import "encoding/gob"

// The types that cross the wire have the names and fields of docker-machine's own,
// of libmachine/mcnflag and libmachine/drivers/rpc: gob goes by these.

// A StringFlag is a flag of "create" that takes a text.
type StringFlag struct{ Name, Usage, EnvVar, Value string }

// An IntFlag is a flag that takes a number.
type IntFlag struct {
	Name, Usage, EnvVar string
	Value               int
}

// A BoolFlag is a flag that is given or not.
type BoolFlag struct{ Name, Usage, EnvVar string }

// A StringSliceFlag is a flag that may be given several times. Its default counts for
// nothing: a client sends what was given alone.
type StringSliceFlag struct {
	Name, Usage, EnvVar string
	Value               []string
}

// FlagValues are the flags of one "create": those of the driver and those that all
// drivers share. Each value is a string, an int, a bool or a []string.
type FlagValues struct{ Values map[string]any }

func init() {
	gob.RegisterName("*mcnflag.StringFlag", new(StringFlag))
	gob.RegisterName("*mcnflag.IntFlag", new(IntFlag))
	gob.RegisterName("*mcnflag.BoolFlag", new(BoolFlag))
	gob.RegisterName("*mcnflag.StringSliceFlag", new(StringSliceFlag))
	gob.RegisterName("*rpcdriver.RPCFlags", new(FlagValues))
}

// The states of libmachine/state, which are numbers on the wire.
const (
	stateNone = iota
	stateRunning
	statePaused
	stateSaved
	stateStopped
	stateStopping
	stateStarting
	stateError
)

// Package guest is what runs inside the virtual machine: PID 1, from the first
// mount to the power-off. boot_linux.go is the recipe, everything else a step of it or
// a noun that a step needs; what is a job of its own, as the engine and the data disk are,
// is a package below. It talks to the host through guestapi alone.
//
// It is for linux; only the parsers, which do no I/O, build elsewhere.
package guest

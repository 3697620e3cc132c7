package supervisor

import "github.com/hyve-vm/hyve/internal/control"

// A phase is what a machine's run is at. Its session alone changes it, by next.
type phase uint8

const (
	preparing  phase = iota // there is no VM yet, nor all that it needs
	starting                // the hypervisor starts
	cancelling              // as these two, and somebody has asked for the end
	condemned               // by a kill
	comingUp                // the VM runs, its guest or the engine is to come up
	running
	busy       // it runs, and is being copied or told of settings
	dozing     // it runs, and is being frozen to sleep
	nodding    // it is frozen, and its VM about to end
	asleep     // there is no VM; whoever has something for the guest wakes it
	rousing    // the hypervisor starts again
	stirring   // the VM runs again, its guest is to come up
	suspending // it runs, and is being frozen with all that runs in it
	leaving    // it is to stop when what is being done with it is done
	stopping   // its VM has been asked to end, or does
	over

	phases = int(over) + 1
)

// state is a phase as it is published.
func (p phase) state() control.State {
	switch p {
	case preparing, starting, comingUp:
		return control.Starting
	case running, busy, dozing, nodding, asleep, rousing, stirring:
		return control.Running
	case over:
		return control.Stopped
	default:
		return control.Stopping
	}
}

// settled tells whether whoever waits can be given an answer.
func (p phase) settled() bool {
	switch p {
	case running, asleep, leaving, stopping, over:
		return true
	default:
		return false
	}
}

// A kind of message to a session.
type kind uint8

// Events move a session from phase to phase.
const (
	prepared   kind = iota // all that the VM needs is there
	bootBegins             // there is no state to go on from, or none that fits
	booted                 // the VM runs, from its disk
	thawed                 // the VM runs, from its frozen state
	failed                 // what was under way before a VM ran has ended in vain
	engineIsUp             // and answers as docker's clients ask
	unfit                  // a thawed guest is not its machine, or does not say so
	trouble                // the guest tells of a failure that leaves it alive
	stuck                  // the host's disk cannot be written

	wordStop    // cleanly
	wordKill    // at once
	wordSuspend //
	wordCopy    //
	wordSettle  // give the guest what is new in its settings
	quiet       // nothing has happened for long
	clientWaits // a client waits for the guest

	finished // what busy was about is done, or has failed
	isFrozen // the VM is frozen, and ends
	unfrozen // it could not be; it runs on unless it has ended

	gone   // the VM has ended, for good
	again  // it has ended, to be started again
	broken // it has ended because its guest had to give up

	events = int(broken) + 1
)

// Notes are messages that change no phase.
const (
	cameUp   kind = iota + kind(events) // the guest has come up
	warm                                // there is time to spare before the engine is up
	engineUp                            // as the guest says
	engineDown
	fatal      // the guest tells why it will power off
	poweredOff // its last word
	occupied   // whether anything runs in it
	unstuck    // the host's disk can be written again
	vmEnded    // becomes gone, again or broken
)

// An action is what a session does at an event.
type action uint8

const (
	nothing  action = iota
	refuse          // say that the machine is not running
	grant           // say yes, and that is all
	wait            // answer when there is more to say
	power           // start the hypervisor
	rouse           // and let who asked wait
	abort           // call off what is under way before a VM runs
	kill            // end the VM at once
	unplug          // end it by its hypervisor
	shutDown        // ask the guest for its end
	end             // freeze the VM or shut it down, as was asked for
	copyVM
	settle
	suspend
	doze
	notNow   // begin to count the quiet time anew
	complain // publish what the guest tells
	giveUp   // and shut it down
	makeRoom // wait for room on the host's disk

	actions = int(makeRoom) + 1
)

// next is what a session does at an event, and where that leads. While something is
// being done with the VM, gone, again and broken wait until it is done.
func next(p phase, e kind) (phase, action) {
	switch e {
	case prepared, bootBegins, booted, thawed, failed:
		return nextStart(p, e)
	case engineIsUp, unfit, trouble, stuck:
		return nextGuest(p, e)
	case wordStop, wordKill:
		return nextStop(p, e)
	case wordSuspend, wordCopy, wordSettle, quiet, clientWaits:
		return nextWord(p, e)
	case finished, isFrozen, unfrozen:
		return nextDone(p, e)
	default:
		return nextEnd(p, e)
	}
}

// nextStart is next before a VM runs.
func nextStart(p phase, e kind) (phase, action) {
	switch {
	case p == preparing && e == prepared:
		return starting, power
	case p == rousing && e == bootBegins:
		return starting, nothing
	case p == starting && (e == booted || e == thawed):
		return comingUp, nothing
	case p == rousing && e == thawed:
		return stirring, nothing
	case p == cancelling && e == thawed: // it ran, and ends as one that runs
		return stopping, shutDown
	case p == cancelling && e == booted, p == condemned && (e == booted || e == thawed):
		return stopping, kill
	case (p == cancelling || p == condemned) && e == prepared:
		return over, nothing
	case (p == preparing || p == starting || p == rousing || p == cancelling || p == condemned) && e == failed:
		return over, nothing
	}
	return p, nothing
}

// nextGuest is next for what the guest says.
func nextGuest(p phase, e kind) (phase, action) {
	switch {
	case (p == comingUp || p == stirring) && e == engineIsUp:
		return running, nothing
	case (p == comingUp || p == stirring) && e == unfit: // and is booted
		return p, kill
	case p == comingUp && e == trouble: // a machine that starts without an engine is of no use
		return stopping, giveUp
	case e == trouble:
		return p, complain
	case p == comingUp && e == stuck: // somebody waits for it
		return p, unplug
	case e == stuck:
		return p, makeRoom
	}
	return p, nothing
}

// nextStop is next for the end that somebody asks for.
func nextStop(p phase, e kind) (phase, action) {
	if e == wordKill {
		switch p {
		case preparing, starting, rousing, cancelling:
			return condemned, abort
		case asleep:
			return over, grant
		case condemned, over:
			return p, grant
		default:
			return stopping, kill
		}
	}
	switch p {
	case preparing, starting, rousing:
		return cancelling, abort
	case comingUp:
		return stopping, shutDown
	case running, stirring:
		return stopping, end
	case busy, dozing, suspending:
		return leaving, grant
	case nodding:
		return stopping, grant
	case asleep:
		return over, grant
	default: // it is on its way
		return p, grant
	}
}

// nextWord is next for what needs a machine that runs.
func nextWord(p phase, e kind) (phase, action) {
	switch e {
	case quiet:
		if p == running {
			return dozing, doze
		}
		return p, notNow
	case clientWaits:
		switch p {
		case asleep:
			return rousing, power
		case dozing, nodding:
			return p, wait
		}
		return p, nothing
	case wordSettle:
		switch p {
		case running:
			return busy, settle
		case busy, dozing, suspending, stirring:
			return p, wait
		}
		return p, grant // it hears of it when it starts or wakes
	}
	switch p {
	case running:
		if e == wordCopy {
			return busy, copyVM
		}
		return suspending, suspend
	case busy, dozing, nodding, suspending, rousing, stirring:
		return p, wait
	case asleep:
		return rousing, rouse
	}
	return p, refuse
}

// nextDone is next when what was being done with the VM is over.
func nextDone(p phase, e kind) (phase, action) {
	switch {
	case p == busy && e == finished, (p == dozing || p == suspending) && e == unfrozen:
		return running, nothing
	case p == dozing && e == isFrozen:
		return nodding, nothing
	case (p == suspending || p == leaving) && e == isFrozen:
		return stopping, nothing
	case p == leaving:
		return stopping, end
	case p == stopping && e == unfrozen:
		return stopping, shutDown
	}
	return p, nothing
}

// nextEnd is next when the VM has ended.
func nextEnd(p phase, e kind) (phase, action) {
	switch p {
	case comingUp, running, stirring:
		if e == again {
			return starting, power
		}
		return over, nothing
	case nodding:
		if e == broken {
			return over, nothing
		}
		return asleep, nothing
	case stopping:
		return over, nothing
	}
	return p, nothing
}

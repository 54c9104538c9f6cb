package install

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// A kind of change decides what may be lost.
type kind int

const (
	// planned changes lose nothing. Requests wait for five seconds, as a browser
	// would for longer: what is lost is what a user sees as failed. What was
	// under way on a connection when its address moved to another node is cut,
	// as the other node does not know the connection: that is told, and is no
	// fault.
	planned kind = iota
	// unplanned changes lose what is on the way until somebody takes over, and
	// what goes to dead Pods until Kubernetes has noticed.
	unplanned
)

// What such changes may cost. The machine may be busy with other things;
// make bench measures how short it is.
const (
	mostSilence = 5 * time.Second
	mostFailing = 30 * time.Second
)

// before and after are how long it is asked round a change.
const (
	before = 500 * time.Millisecond
	after  = 1500 * time.Millisecond
)

// asking is how often who has an address is asked. The prober tells 64
// questions apart, so an answer may be late by that many.
func (k kind) asking() time.Duration {
	if k != unplanned {
		return 20 * time.Millisecond
	}
	return 5 * time.Millisecond
}

// patience is how long a request waits.
func (k kind) patience() time.Duration {
	if k != unplanned {
		return 5 * time.Second
	}
	return 900 * time.Millisecond
}

// An event is a line of the timeline.
type event struct {
	at   time.Time
	what string
}

// A watch is what is asked of one address. An address that is routed has no
// prober.
type watch struct {
	address netip.Addr
	prober  *lab.Prober
	load    *lab.Load
}

// watch begins to ask.
func (r *run) watch(k kind) (watches []watch, err error) {
	for _, address := range slices.Concat(r.addresses, r.routed) {
		w := watch{address: address}
		if !slices.Contains(r.routed, address) {
			if w.prober, err = r.lab.Observers.Probe(address, k.asking()); err != nil {
				return watches, err
			}
		}
		w.load = r.lab.Observers.PatientLoad(address, 80, 20*time.Millisecond, k.patience())
		watches = append(watches, w)
	}
	return watches, nil
}

// stop ends the asking.
func (w watch) stop() (result lab.LoadResult, report lab.Report) {
	result = w.load.Stop()
	if w.prober != nil {
		report = w.prober.Stop()
	}
	return result, report
}

// during makes a change while the client asks for all addresses, and tells what
// the client saw of it. More is lost than may be: that is a fault.
func (r *run) during(ctx context.Context, k kind, change func(note func(format string, args ...any)) error) error {
	capture, err := r.lab.Observers.Capture(ctx, fmt.Sprintf("step-%d", r.steps), append(r.lab.Network.Nodes(), lab.Client, lab.Router)...)
	if err != nil {
		return err
	}
	defer capture.Stop()
	routes, err := r.watchRoutes(ctx)
	if err != nil {
		return err
	}
	defer routes.stop()
	watches, err := r.watch(k)
	for _, w := range watches {
		defer w.stop()
	}
	if err != nil {
		return err
	}
	pause(ctx, before)
	var events []event
	begun := time.Now()
	err = change(func(format string, args ...any) {
		events = append(events, event{time.Now(), fmt.Sprintf(format, args...)})
	})
	ended := time.Now()
	events = append(events, event{ended, "done"})
	pause(ctx, after)
	var (
		summary []string
		total   tally
	)
	for _, w := range watches {
		result, report := w.stop()
		if report.Err != nil {
			err = errors.Join(err, report.Err)
		}
		report = until(report, ended.Add(after/3)) // of the last moment not all answers are in
		rerouted := routes.of(w.address)
		moved := append(tell(report, begun), tellRoutes(w.address, rerouted)...)
		cut := slices.DeleteFunc(slices.Clone(result.Failed), func(a lab.Attempt) bool { return !wasCut(a, moved) })
		lost := slices.DeleteFunc(result.Failed, func(a lab.Attempt) bool { return wasCut(a, moved) })
		events = slices.Concat(events, moved, failures("cut by the move", cut, w.address), failures("LOST", lost, w.address))
		unanswered := len(report.Unanswered())
		silence, _ := report.LongestGap()
		if w.prober != nil {
			summary = append(summary, fmt.Sprintf("%s: %d questions, %d unanswered, longest silence %s", w.address, len(report.Questions), unanswered, silence.Round(time.Millisecond)))
		}
		summary = append(summary, fmt.Sprintf("%s: %d requests, %d lost, %d cut, longest time without a success %s", w.address, result.Requests, len(lost), len(cut), result.LongestGap.Round(time.Millisecond)))
		total.add(tally{requests: result.Requests, lost: len(lost), unanswered: unanswered, cut: len(cut), longest: result.LongestGap})
		switch k {
		case planned:
			for _, c := range rerouted {
				if c.hops < len(r.lab.Network.Nodes())-1 {
					r.fault("the router had %d nodes for %s, %s after the change; it should never lack more than one", c.hops, w.address, c.at.Sub(begun).Round(time.Millisecond))
				}
			}
			if unanswered+len(lost) > 0 {
				r.fault("step %d was planned, and should have lost nothing: %s: %d questions unanswered, %d requests lost", r.steps, w.address, unanswered, len(lost))
			}
		case unplanned:
			if silence > mostSilence {
				r.fault("nobody answered for %s for %s, more than %s", w.address, silence, mostSilence)
			}
			if i := slices.IndexFunc(lost, func(a lab.Attempt) bool { return a.Begun.Sub(begun) > mostFailing }); i >= 0 {
				r.fault("requests to %s still fail after %s: %v", w.address, mostFailing, lost[i].Err)
			}
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	for _, e := range events {
		r.say("%+9.3f s  %s", e.at.Sub(begun).Seconds(), e.what)
	}
	for _, line := range summary {
		r.say("%s", line)
	}
	if k == unplanned || total.lost+total.unanswered == 0 {
		err = errors.Join(err, capture.Remove())
	} else {
		lines, why := capture.Explain(ctx)
		for _, line := range lines {
			r.say("%s", line)
		}
		err = errors.Join(err, why)
	}
	r.last = total
	return err
}

// until leaves out the questions from a time on.
func until(r lab.Report, t time.Time) lab.Report {
	if i := slices.IndexFunc(r.Questions, func(q lab.Question) bool { return q.At.After(t) }); i >= 0 {
		r.Questions = r.Questions[:i]
	}
	return r
}

// wasCut reports whether a request was under way on a connection when its
// address moved, by layer 2 or on the router. The node that is asked next does
// not know the connection: it refuses it, or says nothing. (A connection that
// was not open yet tries again after a second, and is well.)
func wasCut(a lab.Attempt, moves []event) bool {
	const (
		blur = 50 * time.Millisecond  // questions are that far apart, and more when the machine is busy
		life = 250 * time.Millisecond // of a request, on a busy machine
	)
	end := a.Ended
	switch {
	case errors.Is(a.Err, context.DeadlineExceeded):
		end = a.Begun.Add(life)
	case !errors.Is(a.Err, syscall.ECONNRESET):
		return false
	}
	return slices.ContainsFunc(moves, func(e event) bool { return a.Begun.Before(e.at.Add(blur)) && end.After(e.at.Add(-blur)) })
}

// tell turns a report into events.
func tell(report lab.Report, begun time.Time) []event {
	var events []event
	for n, spell := range report.Timeline() {
		e := event{at: spell.From}
		who := strings.Join(spell.Hosts, " and ")
		switch len(spell.Hosts) {
		case 0:
			e.what = fmt.Sprintf("nobody answers for %s: %d questions, %s", report.Address, spell.Questions, spell.To.Sub(spell.From).Round(time.Millisecond))
		case 1:
			e.what = fmt.Sprintf("%s answers for %s", who, report.Address)
		default:
			e.what = fmt.Sprintf("%s answer for %s (%d questions): one hands over to the other", who, report.Address, spell.Questions)
		}
		if n == 0 {
			e.at = begun
		}
		events = append(events, e)
	}
	return events
}

// failures joins requests that failed one after the other.
func failures(what string, failed []lab.Attempt, address netip.Addr) []event {
	slices.SortFunc(failed, func(a, b lab.Attempt) int { return a.Begun.Compare(b.Begun) })
	var events []event
	for i := 0; i < len(failed); {
		n := 1
		for i+n < len(failed) && failed[i+n].Begun.Sub(failed[i+n-1].Begun) < time.Second {
			n++
		}
		first, last := failed[i], failed[i+n-1]
		events = append(events, event{first.Begun, fmt.Sprintf("%s: requests to %s: %d in %s: %v", what, address, n, last.Begun.Sub(first.Begun).Round(time.Millisecond), first.Err)})
		i += n
	}
	return events
}

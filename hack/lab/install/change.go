package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// A tolerance is what may be lost while something changes.
type tolerance struct {
	// silence is the longest time for which nobody may answer for an address.
	silence time.Duration
	// failing is how long requests may fail, from the change on.
	failing time.Duration
}

// nothing may be lost when a change was planned.
var nothing = tolerance{}

const (
	askEvery = 5 * time.Millisecond
	getEvery = 20 * time.Millisecond
	// before and after are how long it is asked round a change.
	before = 500 * time.Millisecond
	after  = 1500 * time.Millisecond
)

// An event is a line of the timeline.
type event struct {
	at   time.Time
	what string
}

// during makes a change while the client asks for all addresses, and tells what
// the client saw of it. More is lost than is tolerated: that is a fault.
func (r *run) during(ctx context.Context, may tolerance, change func(note func(format string, args ...any)) error) error {
	var (
		probers []*lab.Prober
		loads   []*lab.Load
	)
	for _, address := range r.addresses {
		prober, err := r.lab.Probe(address, askEvery)
		if err != nil {
			return err
		}
		defer prober.Stop()
		load := r.lab.Load(address, 80, getEvery)
		defer load.Stop()
		probers, loads = append(probers, prober), append(loads, load)
	}
	pause(ctx, before)
	var events []event
	begun := time.Now()
	err := change(func(format string, args ...any) {
		events = append(events, event{time.Now(), fmt.Sprintf(format, args...)})
	})
	events = append(events, event{time.Now(), "done"})
	pause(ctx, after)
	lost := 0
	var summary []string
	for i, address := range r.addresses {
		result, report := loads[i].Stop(), probers[i].Stop()
		if report.Err != nil {
			err = errors.Join(err, report.Err)
		}
		for n, spell := range report.Timeline() {
			who := strings.Join(spell.Hosts, " and ")
			switch {
			case n == 0:
				events = append(events, event{begun, fmt.Sprintf("%s answers for %s", who, address)})
			case len(spell.Hosts) == 0:
				events = append(events, event{spell.From, fmt.Sprintf("nobody answers for %s: %d questions, %s", address, spell.Questions, spell.To.Sub(spell.From).Round(time.Millisecond))})
			case len(spell.Hosts) == 1:
				events = append(events, event{spell.From, fmt.Sprintf("%s answers for %s", who, address)})
			default:
				events = append(events, event{spell.From, fmt.Sprintf("%s answer for %s (%d questions): one hands over to the other", who, address, spell.Questions)})
			}
		}
		events = append(events, failures(result.Failed, address.String())...)
		unanswered, failed := len(report.Unanswered()), len(result.Failed)
		silence, _ := report.LongestGap()
		summary = append(summary, fmt.Sprintf("%-17s  %d of %d questions unanswered, longest silence %s;  %d of %d requests failed, longest time without a success %s",
			address, unanswered, len(report.Questions), silence.Round(time.Millisecond), failed, result.Requests, result.LongestGap.Round(time.Millisecond)))
		if may == nothing {
			lost += unanswered + failed
			continue
		}
		if silence > may.silence {
			r.fault("nobody answered for %s for %s, more than %s", address, silence, may.silence)
		}
		for _, f := range result.Failed {
			if f.Begun.Sub(begun) > may.failing {
				r.fault("requests to %s still failed %s after: %v", address, f.Begun.Sub(begun).Round(time.Millisecond), f.Err)
				break
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
	if lost > 0 {
		r.fault("step %d lost %d questions and requests; it was planned, and should have lost none", r.steps, lost)
	}
	return err
}

// failures joins requests that failed alike, one after the other.
func failures(failed []lab.Attempt, address string) []event {
	slices.SortFunc(failed, func(a, b lab.Attempt) int { return a.Begun.Compare(b.Begun) })
	var events []event
	for i := 0; i < len(failed); {
		first, n := failed[i], 1
		for i+n < len(failed) && failed[i+n].Begun.Sub(failed[i+n-1].Begun) < time.Second {
			n++
		}
		last := failed[i+n-1]
		what := fmt.Sprintf("LOST: a request to %s: %v", address, first.Err)
		if n > 1 {
			what = fmt.Sprintf("LOST: %d requests to %s, in %s: %v", n, address, last.Begun.Sub(first.Begun).Round(time.Millisecond), first.Err)
		}
		events = append(events, event{first.Begun, what})
		i += n
	}
	return events
}

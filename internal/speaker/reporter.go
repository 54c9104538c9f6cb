package speaker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/proof"
)

// A Register is where a State is written down for others to read.
type Register interface {
	// Changed has a value after it was changed, perhaps by another hand, and once
	// it is known what it says.
	Changed() <-chan struct{}
	// Write makes it say what the State is, unless it does already, and reports
	// whether anything was written. An error is worth another attempt.
	Write(context.Context, *State) (written bool, err error)
}

// Where these are from: docs/design/pacing.md.
const (
	// breath is the least time between two writes of a State.
	breath = time.Second
	// share is by how much each member of the cluster stretches the time over
	// which all of them write when something concerns them all, so that the API
	// server sees a hundred writes a second at most, however many nodes there are.
	// What the node answers for concerns few, and does not wait for that: somebody
	// waits to be told.
	share = 10 * time.Millisecond
	// lull is how long all other news waits at least. That a member is silent is
	// often followed by what this node takes over from it: that is one write, then,
	// and the takeover need not wait for a breath.
	lull = 200 * time.Millisecond
	// lastWords bounds the write with which a speaker takes its leave.
	lastWords = time.Second
	// stale bounds one attempt.
	stale = 10 * time.Second
	// retry and rarely bound the pause after a failure: it doubles.
	retry  = time.Second
	rarely = time.Minute
)

// A Reporter keeps a Register up to date with a Speaker. It runs beside the
// Speaker, which never waits for it: what was true in between is nobody's
// concern.
type Reporter struct {
	state    func() *State
	changed  <-chan struct{}
	sessions <-chan struct{}
	register Register
	log      *slog.Logger
	writes   *prometheus.CounterVec
	// written, proofs and response are what was written last, by Run.
	written  []core.Answer
	proofs   []proof.Result
	response *proof.Response
}

// NewReporter returns a Reporter for a Speaker.
func NewReporter(s *Speaker, register Register, log *slog.Logger, reg prometheus.Registerer) *Reporter {
	return newReporter(s.State, s.Stated(), s.SessionsChanged(), register, log, reg)
}

func newReporter(state func() *State, changed, sessions <-chan struct{}, register Register, log *slog.Logger, reg prometheus.Registerer) *Reporter {
	r := &Reporter{
		state: state, changed: changed, sessions: sessions, register: register, log: log,
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "status_writes_total",
			Help: "Writes of this node's SpeakerStatus, by result.",
		}, []string{"result"}),
	}
	for _, result := range []string{"written", "failed"} {
		r.writes.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(r.writes)
	}
	return r
}

// Run writes until ctx is done, and then once more: a speaker that has left does
// not answer for what it answered for.
func (r *Reporter) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var (
		due  time.Time     // when to look again; zero: there is nothing to write
		next time.Time     // not before this
		wait time.Duration // not 0 while writing fails
	)
	by := func(at time.Time) {
		if due.IsZero() || at.Before(due) {
			due = at
			timer.Reset(time.Until(due))
		}
	}
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
			defer cancel()
			_ = r.write(last)
			return
		case <-r.changed:
		case <-r.sessions:
		case <-r.register.Changed():
		case <-timer.C:
			due = time.Time{}
			switch err := r.write(ctx); {
			case ctx.Err() != nil:
				continue
			case err != nil:
				if wait == 0 {
					r.log.Warn("cannot update SpeakerStatus", "err", err)
				}
				wait = min(max(retry, 2*wait), rarely)
				next = time.Now().Add(wait + rand.N(wait/4))
				by(next)
				continue
			case wait > 0:
				r.log.Info("SpeakerStatus updated again")
				wait = 0
			}
			next = time.Now().Add(breath)
			continue
		}
		at := time.Now()
		if next.After(at) {
			at = next
		}
		if s := r.state(); s != nil && !r.urgent(s) {
			at = at.Add(lull + rand.N(time.Duration(len(s.Members)+1)*share))
		}
		by(at)
	}
}

// urgent reports whether the node answers for something else than was written last, or
// its segment says something else: Services wait to be told. So does a person who has
// asked.
func (r *Reporter) urgent(s *State) bool {
	return r.response != s.Response || !slices.EqualFunc(r.proofs, s.Proofs, proof.Result.Equal) || !slices.EqualFunc(r.written, s.Answers, func(a, b core.Answer) bool { return a.Address == b.Address })
}

func (r *Reporter) write(ctx context.Context) error {
	s := r.state()
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stale)
	defer cancel()
	written, err := r.register.Write(ctx, s)
	if err == nil {
		r.written, r.proofs, r.response = s.Answers, s.Proofs, s.Response
	}
	switch {
	case err != nil && ctx.Err() != context.Canceled:
		r.writes.WithLabelValues("failed").Inc()
	case written:
		r.writes.WithLabelValues("written").Inc()
	}
	return err
}

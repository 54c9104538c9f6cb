package speaker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

const (
	// breath is the least time between two writes of a State, to which each of its
	// addresses adds a little, until it is ample: what is long takes the API
	// server, and all who watch it, long to read.
	breath = time.Second
	longer = 4 * time.Millisecond
	ample  = 5 * time.Second
	// share is by how much each member of the cluster stretches the time over
	// which all of them write when something concerns them all, so that the API
	// server sees a hundred writes a second at most, however many nodes there are.
	share = 10 * time.Millisecond
	// lastWords bounds the write with which a speaker takes its leave.
	lastWords = time.Second
	// stale bounds one attempt.
	stale = 10 * time.Second
	// retry and rarely bound the pause after a failure: it doubles.
	retry  = time.Second
	rarely = time.Minute
)

// A Registrar keeps a Register up to date with a Speaker. It runs beside the
// Speaker, which never waits for it: what was true in between is nobody's
// concern.
type Registrar struct {
	state    func() *State
	changed  <-chan struct{}
	sessions <-chan struct{}
	register Register
	log      *slog.Logger
	writes   *prometheus.CounterVec
}

// NewRegistrar returns a Registrar for a Speaker.
func NewRegistrar(s *Speaker, register Register, log *slog.Logger, reg prometheus.Registerer) *Registrar {
	return newRegistrar(s.State, s.Stated(), s.SessionsChanged(), register, log, reg)
}

func newRegistrar(state func() *State, changed, sessions <-chan struct{}, register Register, log *slog.Logger, reg prometheus.Registerer) *Registrar {
	r := &Registrar{
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
func (r *Registrar) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var (
		due  bool          // there may be something to write, when timer fires
		next time.Time     // not before this
		wait time.Duration // not 0 while writing fails
	)
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
			due = false
			switch err := r.write(ctx); {
			case ctx.Err() != nil:
				continue
			case err != nil:
				if wait == 0 {
					r.log.Warn("report what this node does", "err", err)
				}
				wait = min(max(retry, 2*wait), rarely)
				due = true
				timer.Reset(wait + rand.N(wait/4))
				continue
			case wait > 0:
				r.log.Info("what this node does is reported again")
				wait = 0
			}
			next = time.Now().Add(r.rest())
			continue
		}
		if !due {
			due = true
			timer.Reset(max(time.Until(next), 0) + r.turn())
		}
	}
}

// rest returns for how long nothing is written after a write.
func (r *Registrar) rest() time.Duration {
	s := r.state()
	if s == nil {
		return breath
	}
	return min(breath+time.Duration(len(s.Answers))*longer, ample)
}

// turn returns after how long to write what all nodes may want to write.
func (r *Registrar) turn() time.Duration {
	s := r.state()
	if s == nil || len(s.Members) == 0 {
		return 0
	}
	return rand.N(time.Duration(len(s.Members)) * share)
}

func (r *Registrar) write(ctx context.Context) error {
	s := r.state()
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stale)
	defer cancel()
	written, err := r.register.Write(ctx, s)
	switch {
	case err != nil && ctx.Err() != context.Canceled:
		r.writes.WithLabelValues("failed").Inc()
	case written:
		r.writes.WithLabelValues("written").Inc()
	}
	return err
}

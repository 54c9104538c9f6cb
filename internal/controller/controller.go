package controller

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/watchdog"
)

// Options are what a Controller is made of.
type Options struct {
	// Cluster is what it acts upon; the caller runs it.
	Cluster *kube.Cluster
	// Events takes the transitions that people want to hear of.
	Events *kube.Recorder
	// Metrics takes what is counted.
	Metrics *Metrics
	// Announce are the switches that the speakers have, too, and Settings the flags
	// that must be the same for them.
	Announce eligibility.Options
	Settings report.Settings
	// Held reports whether we may still write.
	Held func() bool
	// WriteTimeout bounds a write. It must not exceed the time between the moment
	// when Held turns false and the moment when another leader may start.
	WriteTimeout time.Duration
	// Gossip hears what is known of the keys that speakers use; nil: nobody does.
	Gossip interface{ SetSpeakers([]gossipkey.Speaker) }
	// Watchdog asks the allocation loop; nil: it is not asked.
	Watchdog *watchdog.Watchdog
	Log      *slog.Logger
}

// What the loop allows itself: docs/design/pacing.md has the reasons.
const (
	// writers is how many writes are under way at most.
	writers = 16
	// coolDown is the least time between two passes: what arrives within is
	// taken together.
	coolDown = 20 * time.Millisecond
	// poolPause is the least time between two writes of one pool's status.
	poolPause = time.Second
	// peerPause is the same for a BGP peer: its sessions on many nodes come and
	// go together.
	peerPause = time.Second
)

// A planner is an [allocator.Planner].
type planner interface {
	SetPools([]lb.Pool)
	SetNodes([]lb.Node)
	SetExternal([]lb.ExternalIP)
	Put(lb.Service)
	Delete(lb.ServiceKey)
	Plan(time.Time) allocator.Result
}

// A Controller assigns addresses to Services.
type Controller struct {
	Options
	newPlanner func() planner
	// aside are the Services over which a pass has panicked, by the edition of theirs
	// that it was: what we write to them meanwhile is no reason to try again.
	aside map[lb.ServiceKey]uint64
}

// New prepares a Controller.
func New(o Options) *Controller {
	if o.Watchdog == nil {
		o.Watchdog = watchdog.New("the allocation loop", watchdog.Patience)
	}
	return &Controller{
		Options:    o,
		newPlanner: func() planner { return allocator.New() },
		aside:      map[lb.ServiceKey]uint64{},
	}
}

// Lead allocates until ctx ends. Call it as the leader only. It knows nothing
// from an earlier term: everything that is assigned is adopted from the cluster
// before anything new is.
func (c *Controller) Lead(ctx context.Context) error {
	c.Metrics.leader.Set(1)
	defer c.Metrics.leader.Set(0)
	defer c.Metrics.clear()
	select {
	case <-c.Cluster.Synced():
	case <-ctx.Done():
		return nil
	}
	for {
		if err := c.catchUp(ctx); err != nil {
			return nil // ctx has ended
		}
		err := c.term(ctx)
		if err == nil || !c.quarantine(err) {
			return err
		}
	}
}

// term allocates until ctx ends or a pass panics.
func (c *Controller) term(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.Metrics.reset()
	l := newLoop(c)
	// Writes that are under way when ctx ends are awaited, not cut off: an
	// answer that is not read is a write that is not known of.
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for j := range l.jobs {
				l.results <- c.do(context.WithoutCancel(ctx), j)
			}
		})
	}
	wg.Go(func() { c.findLeftovers(ctx, l.leftovers) })
	err := l.run(ctx)
	cancel()
	close(l.jobs)
	return l.end(&wg, err)
}

// catchUp waits until the cluster is known as it was when we became the leader,
// or later.
func (c *Controller) catchUp(ctx context.Context) error {
	return c.insist(ctx, "read the Services to adopt", func() error { return c.Cluster.CatchUp(ctx) })
}

// findLeftovers looks once for Services that still carry something of ours
// although they ceased to be LoadBalancers.
func (c *Controller) findLeftovers(ctx context.Context, out chan<- map[lb.ServiceKey]string) {
	_ = c.insist(ctx, "read the Services that are no LoadBalancers", func() error {
		found, err := c.Cluster.Leftovers(ctx)
		if err == nil {
			out <- found // there is room
		}
		return err
	})
}

// insist does something until it succeeds; it fails only when ctx ends.
func (c *Controller) insist(ctx context.Context, what string, do func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			c.Log.Warn("cannot "+what, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// The kinds of jobs, as metrics name what they write.
const (
	kindService   = "service"
	kindCleanup   = "service-cleanup"
	kindPool      = "pool"
	kindFinalizer = "pool-finalizer"
)

// jobKinds are all of them: those, and the kinds of the objects that configure us.
var jobKinds = func() []string {
	kinds := []string{kindService, kindCleanup, kindPool, kindFinalizer}
	for _, k := range kube.StatusKinds {
		kinds = append(kinds, strings.ToLower(k))
	}
	return kinds
}()

// A job is one write.
type job struct {
	kind, object string
	do           func(context.Context) (kube.Outcome, error)
	// done is called by the loop with what became of it.
	done func(kube.Outcome)
	// attempt is what it belongs to.
	attempt *attempt
}

// A result is what became of a job.
type result struct {
	job
	outcome kube.Outcome
	err     error
}

// do carries a job out, unless another replica may be the leader by now.
func (c *Controller) do(ctx context.Context, j job) (r result) {
	r.job = j
	defer func() {
		if p := recover(); p != nil {
			r.outcome, r.err = kube.Refused, fmt.Errorf("%s %s: panic: %v\n%s", j.kind, j.object, p, debug.Stack())
		}
		c.Metrics.writes.WithLabelValues(j.kind, r.outcome.String()).Inc()
	}()
	if !c.Held() {
		r.outcome = kube.Fenced
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, c.WriteTimeout)
	defer cancel()
	r.outcome, r.err = j.do(ctx)
	return r
}

// retryAfter is how long to wait before a write is tried again, the n-th time
// in a row; 0 says that the next change of the object decides.
func retryAfter(o kube.Outcome, n int) time.Duration {
	var first, most time.Duration
	switch o {
	case kube.Refused:
		first, most = 5*time.Second, 5*time.Minute
	case kube.Busy, kube.Fenced:
		first, most = time.Second, 30*time.Second
	case kube.Unknown:
		first, most = 250*time.Millisecond, 30*time.Second
	default:
		return 0
	}
	return min(first<<min(n-1, 20), most)
}

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/digest"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
)

// A loop is one term as leader. All of it belongs to the goroutine of run.
type loop struct {
	*Controller
	voice
	planner  planner
	services map[lb.ServiceKey]*service
	pools    map[string]*pool
	left     map[lb.ServiceKey]*leftover
	// configObjects are the objects that configure us, but for the pools.
	configObjects map[objectKey]*configObject
	// holders are the Services that hold an address, by the latest decisions.
	holders map[netip.Addr][]lb.ServiceKey
	// standings are what becomes of those addresses, as they are counted.
	standings map[netip.Addr]report.AddressStanding
	// given are the addresses that the log does not tell of yet.
	given digest.Digest[topic, given]
	// orphaned are the pools whose orphans have come or gone, or have another holder,
	// in this pass.
	orphaned map[string]bool
	places   places
	// moved are the Services that the last step of a rebalancing moved, at which
	// time; moving is when the next one is due, zero when none is.
	moved           []lb.ServiceKey
	movedAt, moving time.Time
	// setting is what the last pass saw of the cluster besides its Services.
	setting  lb.Snapshot
	findings map[objectKey]config.Finding
	// disputes are what advertisements and peers of BGP say against each other,
	// found at disputedAt; disputing is when to look again, zero when nothing bears
	// on it.
	disputes map[objectKey][]config.Problem
	// clashes are what pools have of the cluster's own addresses.
	clashes               map[string][]config.Problem
	disputedAt, disputing time.Time
	// until is when the next reservation ends; zero when none does.
	until time.Time

	// backlog are the jobs for which no writer was free yet.
	backlog []job
	jobs    chan job
	results chan result
	// leftovers delivers what was found once.
	leftovers chan map[lb.ServiceKey]string
	// delayed are the attempts that wait for their time.
	delayed map[*attempt]struct{}
}

// An attempt is the writing of one thing: at most one write is under way.
type attempt struct {
	// settle compares what is with what should be, and submits what is missing.
	settle func()
	// again is set when settle is due as soon as the write under way is over.
	underWay, again bool
	failures        int
	// notUntil is when it may be settled again, and due when it is at the latest.
	notUntil, due time.Time
	// told is the failure that was told last; the zero cause once it is written.
	told cause
}

// A cause is why a write fails. What goes on failing for one cause is told once,
// however often it is tried.
type cause struct {
	outcome kube.Outcome
	reason  metav1.StatusReason
}

// A service is what the loop knows of one Service.
type service struct {
	attempt
	decision allocator.Decision
	// version is the one that the planner knows, of the Service with that UID.
	version, uid string
	rivalry      rivalry
	// announced is the condition of that name, nil for the one that it has, and event
	// what has changed and is told once that is written.
	announced *objects.Condition
	event     report.Event
	// counted is by what it is counted among those that hold an address.
	counted announcing
	// inLine is set while it waits for its turn to be told, since lined, and itsTurn
	// once that has come. Expects is set while the result of its segment is awaited, and
	// patient when it is one of many that are new.
	inLine, itsTurn, expects, patient bool
	lined                             time.Time
	// placed is where its addresses are to be, seen is where they were when it
	// was last looked at, and wrote is where the write that is under way puts them.
	placed      []string
	seen, wrote records
	// moved is what was answered to the last request to move it, and refusal why.
	moved   lb.Move
	refusal string
	// fresh is when it was first seen, until it has been told anything.
	fresh time.Time
}

// Records are what a Service shows of what we have decided about it. There is one for
// each Service, so it has no more than that of an [lb.Service].
type records struct {
	Assigned           []netip.Addr
	Placed             []string
	Reallocated, Terms string
	Moved              lb.Move
}

// placeOf returns where an address is recorded, empty for nowhere.
func (r *records) placeOf(a netip.Addr) string {
	s := lb.Service{Assigned: r.Assigned, Placed: r.Placed}
	return s.PlaceOf(a)
}

// A leftover is a Service that has left the LoadBalancers with marks of ours.
type leftover struct {
	attempt
	uid string
}

func newLoop(c *Controller) *loop {
	return &loop{
		Controller: c,
		voice:      newVoice(),
		planner:    c.newPlanner(),
		services:   map[lb.ServiceKey]*service{},
		pools:      map[string]*pool{},
		left:       map[lb.ServiceKey]*leftover{},
		holders:    map[netip.Addr][]lb.ServiceKey{},
		standings:  map[netip.Addr]report.AddressStanding{},
		orphaned:   map[string]bool{},
		places:     newPlaces(),
		findings:   map[objectKey]config.Finding{},

		configObjects: map[objectKey]*configObject{},
		jobs:          make(chan job),
		results:       make(chan result, writers),
		leftovers:     make(chan map[lb.ServiceKey]string, 1),
		delayed:       map[*attempt]struct{}{},
	}
}

// run lives until ctx ends or a pass panics.
func (l *loop) run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	defer l.Watchdog.Begin()()
	defer func() { l.tellGiven(l.given.Rest()) }()
	l.pass(l.Cluster.Everything())
	cool := time.After(coolDown)
	timer := time.NewTimer(0)
	for {
		l.serve(time.Now())
		l.tellGiven(l.given.Take(time.Now()))
		// While cooling down, changes wait; writes and their results do not.
		changed := l.Cluster.Changed()
		if cool != nil {
			changed = nil
		}
		var (
			out  chan<- job
			next job
		)
		if len(l.backlog) > 0 {
			out, next = l.jobs, l.backlog[0]
		}
		timer.Reset(l.rest())
		select {
		case <-ctx.Done():
			return nil
		case <-cool:
			cool = nil
		case <-changed:
			l.pass(l.Cluster.Changes())
			cool = time.After(coolDown)
		case out <- next:
			l.backlog = l.backlog[1:]
		case r := <-l.results:
			l.ended(r)
		case found := <-l.leftovers:
			l.leave(found)
		case <-l.Watchdog.Asked():
		case <-timer.C:
			l.wake()
		}
	}
}

// end waits for the writes that are under way when the term ends, and takes note of what
// became of them unless a pass panicked: who leads next finds them done and tells nobody.
func (l *loop) end(writers *sync.WaitGroup, err error) error {
	go func() { writers.Wait(); close(l.results) }()
	if err == nil {
		err = l.last()
	}
	for range l.results { // nobody who writes is held up
	}
	return err
}

func (l *loop) last() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	for r := range l.results {
		l.ended(r)
	}
	return nil
}

// rest is how long nothing is due by time alone.
func (l *loop) rest() time.Duration {
	next := l.until
	for a := range l.delayed {
		if next.IsZero() || a.due.Before(next) {
			next = a.due
		}
	}
	for _, at := range l.retells {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, t := range []time.Time{l.moving, l.disputing, l.viewing, l.overhauling, l.turn(), l.given.Next()} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if next.IsZero() {
		return 24 * time.Hour
	}
	return max(time.Until(next), 0)
}

// wake does what is due by time.
func (l *loop) wake() {
	now := time.Now()
	for a := range l.delayed {
		if !now.Before(a.due) {
			delete(l.delayed, a)
			l.look(a)
		}
	}
	if !l.until.IsZero() && !now.Before(l.until) {
		l.pass(kube.Changes{})
	}
	l.retell(now)
	if !l.moving.IsZero() && !now.Before(l.moving) {
		l.rebalance()
	}
	if !l.disputing.IsZero() && !now.Before(l.disputing) {
		l.dispute()
		l.settleObjects()
	}
}

// look settles an attempt now, or as soon as it may.
func (l *loop) look(a *attempt) {
	switch {
	case a.underWay:
		a.again = true
	case time.Now().Before(a.notUntil):
		l.lookAt(a, a.notUntil)
	default:
		a.settle()
	}
}

// delay keeps an attempt from being settled for a while.
func (l *loop) delay(a *attempt, d time.Duration) {
	a.notUntil = time.Now().Add(d)
	l.lookAt(a, a.notUntil)
}

// lookAt has an attempt looked at at a time, or before.
func (l *loop) lookAt(a *attempt, t time.Time) {
	if _, waits := l.delayed[a]; !waits || t.Before(a.due) {
		a.due = t
	}
	l.delayed[a] = struct{}{}
}

// forgive lets an attempt be made at once: its object has changed.
func (l *loop) forgive(a *attempt) {
	a.failures, a.notUntil = 0, time.Time{}
	delete(l.delayed, a)
}

// submit queues the write of an attempt.
func (l *loop) submit(a *attempt, j job) {
	a.underWay = true
	j.attempt = a
	l.backlog = append(l.backlog, j)
}

// ended takes note of what became of a write.
func (l *loop) ended(r result) {
	a := r.attempt
	switch r.outcome {
	case kube.Refused, kube.Busy, kube.Unknown:
		tell := l.Log.Warn
		why := cause{r.outcome, apierrors.ReasonForError(r.err)}
		if why == a.told {
			tell = l.Log.Debug
		}
		a.told = why
		tell("write failed", "kind", r.kind, "object", r.object, "reason", r.outcome.String(), "err", r.err)
	case kube.Stale, kube.Gone:
		l.Log.Debug("write overtaken", "kind", r.kind, "object", r.object, "reason", r.outcome.String(), "err", r.err)
	case kube.Done, kube.Unchanged:
		if a.told != (cause{}) {
			a.told = cause{}
			l.Log.Info("written after failures", "kind", r.kind, "object", r.object)
		}
	}
	a.underWay = false
	if pause := retryAfter(r.outcome, a.failures+1); pause > 0 {
		a.failures++
		l.delay(a, pause)
	} else {
		l.forgive(a)
	}
	if r.done != nil {
		r.done(r.outcome)
	}
	if a.again {
		a.again = false
		l.look(a)
	}
}

// pass tells the planner what has changed, and settles what it decides.
func (l *loop) pass(ch kube.Changes) {
	began := time.Now()
	defer func() { l.Metrics.passes.Observe(time.Since(began).Seconds()) }()
	if ch.Config || ch.Pools || ch.Nodes {
		l.takeSetting()
	}
	if ch.Config || ch.Pools {
		l.planner.SetPools(l.setting.Pools)
	}
	if ch.Config || ch.Nodes || ch.Networks {
		l.clashes = config.Clashes(l.setting.Pools, l.setting.Nodes, l.Cluster.ServiceNetworks())
	}
	if ch.Nodes {
		l.planner.SetNodes(l.setting.Nodes)
	}
	if ch.External {
		l.planner.SetExternal(l.Cluster.ExternalIPs())
	}
	affected := slices.Clone(ch.Endpoints)
	for _, key := range ch.Services {
		affected = append(affected, l.put(key)...)
	}
	plan := l.planner.Plan(began)
	l.until = plan.Until

	for _, key := range affected {
		if s := l.services[key]; s != nil {
			affected = append(affected, l.sharing(s.decision)...)
		}
	}
	for _, d := range plan.Services {
		affected = append(affected, l.decided(d)...)
	}
	if ch.Reports || ch.Nodes {
		for _, key := range l.listen(began) {
			if s := l.services[key]; s != nil {
				affected = append(affected, l.sharing(s.decision)...)
			}
		}
	}
	if ch.Config || ch.Nodes {
		affected = affected[:0]
		for key := range l.services {
			affected = append(affected, key)
		}
	}
	slices.SortFunc(affected, lb.ServiceKey.Compare)
	affected = slices.Compact(affected)
	l.judge(affected)
	for _, key := range affected {
		if s := l.services[key]; s != nil {
			l.look(&s.attempt)
		}
	}
	l.settlePools(plan.Pools, ch)
	switch {
	case ch.Config || ch.Nodes:
		l.dispute()
		l.settleObjects()
	case len(affected) > 0 && l.disputing.IsZero() && bgp.Contestable(l.setting.BGPAdvertisements):
		l.disputing = l.disputedAt.Add(disputePause)
	}
	if ch.Config {
		l.rebalance()
	}
	l.leave(ch.Left)
}

// put tells the planner what a Service is now. It returns the Services that have to
// be looked at even if the planner has nothing new to say.
func (l *loop) put(key lb.ServiceKey) []lb.ServiceKey {
	is, ok := l.Cluster.Service(key)
	s := l.services[key]
	if !ok {
		l.planner.Delete(key)
		delete(l.aside, key)
		if s == nil {
			return nil
		}
		l.hold(key, s.decision.Assignments, nil)
		for _, a := range s.decision.Assignments {
			l.given.Add(topic{verb: verbReleased, cause: causeDeleted}, given{a.Address, key})
		}
		l.Metrics.count(s.reason(), -1)
		l.Metrics.tell(s.counted, announcing{})
		delete(l.delayed, &s.attempt)
		delete(l.services, key)
		delete(l.retells, key)
		l.teller.Forget(key)
		return append(l.sharing(s.decision), key)
	}
	if s == nil {
		s = &service{}
		s.settle = func() { l.settle(key, s) }
		l.services[key] = s
		l.Metrics.count(s.reason(), +1)
		if is.Allocated == (objects.Condition{}) {
			s.fresh = is.Seen
		}
	}
	if s.version != is.Version {
		s.version = is.Version
		l.forgive(&s.attempt)
	}
	is.Service = s.remember(is.Service)
	if edition, aside := l.aside[key]; aside && edition == is.Edition {
		l.planner.Put(bare(is.Service))
	} else {
		delete(l.aside, key)
		l.planner.Put(is.Service)
	}
	if l.replaced(s, is.Service) {
		return []lb.ServiceKey{key}
	}
	return nil
}

// decided takes note of a decision and returns the Services whose announcing it
// bears on: its own and those that share an address with it, or did.
func (l *loop) decided(d allocator.Decision) []lb.ServiceKey {
	s := l.services[d.Service]
	if s == nil {
		return nil
	}
	affected := []lb.ServiceKey{d.Service}
	affected = append(affected, l.sharing(s.decision)...)
	affected = append(affected, l.sharing(d)...)
	l.hold(d.Service, s.decision.Assignments, d.Assignments)
	l.Metrics.count(s.reason(), -1)
	s.decision = d
	l.Metrics.count(s.reason(), +1)
	return affected
}

// hold enters which addresses a Service holds. One that no Service holds has no
// place.
func (l *loop) hold(key lb.ServiceKey, was, is []allocator.Assignment) {
	for _, a := range was {
		rest := slices.DeleteFunc(l.holders[a.Address], func(k lb.ServiceKey) bool { return k == key })
		if len(rest) == 0 {
			delete(l.holders, a.Address)
		} else {
			l.holders[a.Address] = rest
		}
	}
	for _, a := range is {
		l.holders[a.Address] = append(l.holders[a.Address], key)
	}
	for _, a := range slices.Concat(was, is) {
		if a.Orphan {
			l.orphaned[a.Pool] = true
		}
	}
	for _, a := range was {
		if len(l.holders[a.Address]) == 0 {
			l.places.set(a.Address, "")
			l.teller.Free(a.Address)
			if was, counted := l.standings[a.Address]; counted {
				l.Metrics.stand(was, -1)
				delete(l.standings, a.Address)
			}
		}
	}
}

// sharing returns the Services that hold an address of a decision.
func (l *loop) sharing(d allocator.Decision) []lb.ServiceKey {
	var all []lb.ServiceKey
	for _, a := range d.Assignments {
		all = append(all, l.holders[a.Address]...)
	}
	return all
}

// settle writes to a Service what it should carry, unless it does.
func (l *loop) settle(key lb.ServiceKey, s *service) {
	is, ok := l.Cluster.Service(key)
	if !ok || l.services[key] != s || is.Foreign {
		return // the next pass knows more, or another installation does
	}
	want := s.want()
	write := l.insist(s, &is, want)
	d, over, by, ask := s.decision, s.rivalry.over, s.rivalry.by, s.rivalry.nameless()
	missing := write
	if write != 0 {
		missing &= is.Missing(s.contested(want, &is))
	}
	switch {
	case missing == 0 && !ask:
		s.itsTurn = false
		l.tellEvent(is, s, want, 0)
		return
	case !s.itsTurn && tellsOnly(is, s.contested(want, &is), missing):
		l.await(s, is.Announced, time.Now())
		return
	}
	s.itsTurn = false
	was := is
	was.Service = s.remember(is.Service)
	var carries objects.ServiceWrite
	s.wrote = records{want.Addresses, want.Placed, want.Reallocated, want.Terms, want.Moved}
	l.submit(&s.attempt, job{
		kind: kindService, object: key.String(),
		do: func(ctx context.Context) (kube.Outcome, error) {
			if ask {
				by = l.Cluster.Rival(ctx, is)
			}
			carries = contestedWrite(want, over, by, d, &is)
			return l.Cluster.WriteService(ctx, is, carries, write)
		},
		done: func(o kube.Outcome) {
			if o == kube.Done && s.version == is.Version {
				s.seen = s.wrote // and whatever is seen from now on came later
			}
			s.wrote = records{}
			if o == kube.Done {
				s.rivalry.wrote(is.Missing(carries)&write, want.Digests())
			}
			if ask && by != "" && s.rivalry.nameless() {
				s.rivalry.by, s.again = by, true
				l.contests(is, carries, over, by)
			}
			switch o {
			case kube.Done:
				l.tell(was, d, carries)
				l.logs(was, d, carries)
				l.tellMove(was, carries, s.refusal)
				l.tellEvent(is, s, want, write)
				if len(want.Addresses) > 0 && !s.fresh.IsZero() {
					l.Metrics.latency.Observe(time.Since(s.fresh).Seconds())
				}
				s.fresh = time.Time{}
			case kube.Stale:
				// What it has become may have been seen while this was under way.
				if now, ok := l.Cluster.Service(key); ok && now.Version != is.Version {
					s.again = true
				}
			}
		},
	})
}

// leave cleans up the Services that have left the LoadBalancers.
func (l *loop) leave(found map[lb.ServiceKey]string) {
	for key, uid := range found {
		o := &leftover{uid: uid}
		o.settle = func() { l.clean(key, o) }
		l.left[key] = o
		l.look(&o.attempt)
	}
}

func (l *loop) clean(key lb.ServiceKey, o *leftover) {
	if l.left[key] != o {
		return // superseded
	}
	l.submit(&o.attempt, job{
		kind: kindCleanup, object: key.String(),
		do: func(ctx context.Context) (kube.Outcome, error) { return l.Cluster.CleanService(ctx, key, o.uid) },
		done: func(outcome kube.Outcome) {
			switch outcome {
			case kube.Stale:
				o.again = true // it has changed since it was read: read it again
			case kube.Done, kube.Unchanged, kube.Gone:
				if l.left[key] == o {
					delete(l.left, key)
				}
			}
		},
	})
}

// Package allocator decides which addresses each Service holds.
//
// What is assigned is what the objects say: the status of the Services, and the
// free list in the status of the pools. [Plan] is a function
// of them and of the time. Others keep an allocator's books beside the objects
// and must rebuild them in the right order after a restart; here a restart is
// planning once more, and a converged world planned again changes nothing.
//
// Three rules carry the rest:
//
//   - What a Service holds it keeps. Edits of pools, requests that cannot be met
//     and failures change nothing; only a request of its owner moves it, and only once
//     the new address is found. Of two that hold one address wrongly the older
//     keeps it.
//   - Within one planning nothing is freed. An address that a decision gives up
//     stays taken until the Service's status shows it no more, so no order of
//     writes, and no change of leader between them, gives an address to two.
//   - Those who wait are served oldest first, from what is free. Since nothing
//     is freed meanwhile, one pass is enough and its order is all that matters.
//
// A [Planner] does the same incrementally: it takes changes of the objects in
// any order and looks again only at what they touch. Free addresses are spans
// with holes (never a scan), so a /64 costs what a /30 does and an exhausted
// pool answers at once. Those who wait are looked at again only after something
// happened that could help one of them, or could change what they are told.
package allocator

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A World is everything that a planning depends on.
type World struct {
	Pools    []lb.Pool
	Services []lb.Service
	Nodes    []lb.Node
	External []lb.ExternalIP
	Now      time.Time
}

// Plan decides for every Service and every pool of a world. The result does not
// depend on the order of its slices.
func Plan(w World) Result {
	p := New()
	p.SetPools(w.Pools)
	p.SetNodes(w.Nodes)
	p.SetExternal(w.External)
	for _, s := range w.Services {
		p.Put(s)
	}
	return p.Plan(w.Now)
}

// A Planner plans a world that changes. Tell it of every change of an object
// as it is seen, in the order in which it is seen, and carry out what Plan
// returns.
//
// It remembers what it promised: the addresses of a decision are taken until
// the Service's status shows another state, however late it does, and the
// Service is planned as one that holds them. So the caller need not, and must
// not, tell it of its own writes before they are seen. In return a write must be
// conditional: it succeeds only if the Service still is the version that was put
// last. Then, once a newer version is put, a promise that it does not show is
// one that no write will fulfill, and is free to be dropped.
//
// A Planner is not safe for concurrent use. What is put into it must not be
// changed afterwards.
type Planner struct {
	services map[lb.ServiceKey]*service
	now      time.Time

	// given is what the next layOut makes the pools of.
	given         []lb.Pool
	givenNodes    map[addr]string
	givenExternal []lb.ExternalIP
	rebuild       bool

	pools      []*pool // by name
	byName     map[string]*pool
	origins    *origin.Index
	public     []*pool // unrestricted and automatic, by name
	restricted []*pool // restricted and automatic, by priority and name
	nodes      map[addr]string
	external   map[addr][]lb.ServiceKey // whose externalIPs name the address, by key
	// Those that admit a Service but have to be asked for.
	publicUnasked, restrictedUnasked []*pool
	scopes                           map[string]*scope
	generation                       int    // of the pools
	version                          uint64 // of what is free and who holds how much

	uses     map[addr]*use
	groups   map[groupKey]*group
	reserved map[lb.ServiceKey][]freed
	left     map[addr]leaver // since the last planning
	asked    map[addr]int    // requested by those who wait
	disputes []*use          // to be resolved

	touched, dirty []*service
	waiting        []*service // oldest first
	unwaited       bool       // some of waiting no longer do
	loosened       bool       // something happened that may concern those who wait
	tally          [len(reasons)]int
}

// New returns a Planner of an empty world.
func New() *Planner {
	return &Planner{
		services: map[lb.ServiceKey]*service{},
		byName:   map[string]*pool{},
		uses:     map[addr]*use{},
		groups:   map[groupKey]*group{},
		scopes:   map[string]*scope{},
		reserved: map[lb.ServiceKey][]freed{},
		left:     map[addr]leaver{},
		asked:    map[addr]int{},
		origins:  origin.New(nil, nil),
	}
}

// SetPools replaces all pools. They are divided (origin.Divide): no two have an address
// in their Ranges.
func (p *Planner) SetPools(pools []lb.Pool) {
	sorted := slices.Clone(pools)
	slices.SortFunc(sorted, func(a, b lb.Pool) int { return cmp.Compare(a.Name, b.Name) })
	p.rebuild = p.rebuild || !slices.EqualFunc(p.given, sorted, func(a, b lb.Pool) bool {
		a.Freed, a.Labels, b.Freed, b.Labels = nil, nil, nil, nil
		return reflect.DeepEqual(a, b)
	})
	p.given = sorted
}

// SetNodes replaces all Nodes; only their names and addresses matter.
func (p *Planner) SetNodes(nodes []lb.Node) {
	next := map[addr]string{}
	for _, n := range nodes {
		for _, a := range n.Addresses {
			if name, taken := next[number(a)]; !taken || n.Name < name {
				next[number(a)] = n.Name
			}
		}
	}
	p.rebuild = p.rebuild || !maps.Equal(p.givenNodes, next)
	p.givenNodes = next
}

// SetExternal replaces all externalIPs.
func (p *Planner) SetExternal(all []lb.ExternalIP) {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b lb.ExternalIP) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Service.Compare(b.Service))
	})
	sorted = slices.Compact(sorted)
	p.rebuild = p.rebuild || !slices.Equal(p.givenExternal, sorted)
	p.givenExternal = sorted
}

// Put tells of a new version of a Service. Each version is put once.
func (p *Planner) Put(next lb.Service) {
	s := p.services[next.Key]
	if s != nil && (s.UID != next.UID || !s.Created.Equal(next.Created)) {
		p.drop(s)
		s = nil
	}
	if s == nil {
		s = &service{}
		p.services[next.Key] = s
	}
	p.adopt(s, next)
	if !s.touched {
		s.touched = true
		p.touched = append(p.touched, s)
	}
	p.mark(s)
}

// Delete tells that a Service is gone.
func (p *Planner) Delete(key lb.ServiceKey) {
	if s := p.services[key]; s != nil {
		p.drop(s)
	}
}

func (p *Planner) mark(s *service) {
	if !s.dirty {
		s.dirty = true
		p.dirty = append(p.dirty, s)
	}
}

// drop forgets a Service that is gone.
func (p *Planner) drop(s *service) {
	for len(s.claims) > 0 {
		p.unclaim(s.claims[0], true)
	}
	p.unwait(s)
	if s.known {
		p.tally[s.decision.Reason]--
	}
	s.deleted = true
	delete(p.services, s.Key)
}

func (p *Planner) unwait(s *service) {
	if !s.waiting {
		return
	}
	s.waiting, p.unwaited = false, true
	for _, a := range s.Request.Addresses {
		if p.asked[number(a)]--; p.asked[number(a)] == 0 {
			delete(p.asked, number(a))
		}
	}
}

// Plan decides. It returns the decisions of the Services that were put since
// the last time, and whatever else changed. Time never goes back: an earlier
// now counts as the latest seen.
func (p *Planner) Plan(now time.Time) Result {
	if now.After(p.now) {
		p.now = now
	}
	p.bury()
	if p.rebuild {
		p.layOut()
		p.rebuild = false
	}
	p.expire()
	p.resolve()

	changed := p.serve(p.examineAll())
	for len(p.left)+len(p.dirty) > 0 { // promises dropped for better ones
		p.bury()
		changed = append(changed, p.serve(p.examineAll())...)
	}
	for _, s := range p.touched {
		if s.touched = false; !s.deleted {
			changed = append(changed, s)
		}
	}
	p.touched = p.touched[:0]
	return p.result(changed)
}

// examineAll looks at what was touched and returns the Services that need an
// address, and those whose decision changed.
func (p *Planner) examineAll() (needy, changed []*service) {
	for i := 0; i < len(p.dirty); i++ {
		s := p.dirty[i]
		s.dirty = false
		if s.deleted {
			continue
		}
		p.unwait(s)
		if d, ok := p.examine(s); !ok {
			needy = append(needy, s)
		} else if p.decide(s, d) {
			changed = append(changed, s)
		}
	}
	p.dirty = p.dirty[:0]
	return needy, changed
}

// serve looks for addresses, oldest first. Those who waited before are looked
// at again when something happened that may concern them; when it happens on
// the way, those younger than its cause are, as the older had their turn.
func (p *Planner) serve(queue, changed []*service) []*service {
	p.line(nil)
	everyone := p.loosened
	if p.loosened = false; everyone {
		queue = append(queue, p.waiting...)
	}
	slices.SortFunc(queue, (*service).older)

	var late []*service
	for i := 0; i < len(queue); i++ {
		s := queue[i]
		d := p.attempt(s)
		if p.decide(s, d) {
			changed = append(changed, s)
		}
		switch {
		case !d.Reason.Waiting():
			p.unwait(s)
		case !s.waiting:
			s.waiting = true
			late = append(late, s)
			for _, a := range s.Request.Addresses {
				p.asked[number(a)]++
			}
		}
		if p.loosened && !everyone {
			everyone = true
			at, _ := slices.BinarySearchFunc(p.waiting, s, (*service).older)
			queue = append(queue, p.waiting[at:]...)
			slices.SortFunc(queue[i+1:], (*service).older)
		}
	}
	p.line(late)
	return changed
}

// line keeps those who wait in line: who does no longer leaves it, and who came
// late joins it by age.
func (p *Planner) line(late []*service) {
	if p.unwaited {
		p.waiting = slices.DeleteFunc(p.waiting, func(s *service) bool { return !s.waiting })
		p.unwaited = false
	}
	if len(late) == 1 {
		i, _ := slices.BinarySearchFunc(p.waiting, late[0], (*service).older)
		p.waiting = slices.Insert(p.waiting, i, late[0])
	} else if len(late) > 1 {
		p.waiting = append(p.waiting, late...)
		slices.SortFunc(p.waiting, (*service).older)
	}
}

// decide records a decision and reports whether it is news.
func (p *Planner) decide(s *service, d Decision) bool {
	if s.known {
		if s.decision.Equal(d) {
			return false
		}
		p.tally[s.decision.Reason]--
	}
	p.tally[d.Reason]++
	s.decision, s.known = d, true
	return true
}

func (p *Planner) result(changed []*service) Result {
	var r Result
	slices.SortFunc(changed, func(a, b *service) int { return a.Key.Compare(b.Key) })
	changed = slices.Compact(changed)
	for _, s := range changed {
		r.Services = append(r.Services, s.decision)
	}
	for _, at := range p.pools {
		if at.stale {
			at.stale = false
			if d := at.decision(); !d.Equal(at.said) {
				at.said = d
				r.Pools = append(r.Pools, d)
			}
		}
		if ends := at.nextExpiry(); !ends.IsZero() && (r.Until.IsZero() || ends.Before(r.Until)) {
			r.Until = ends
		}
	}
	return r
}

// Reasons counts the Services by the reason of their decision.
func (p *Planner) Reasons() map[Reason]int {
	counts := map[Reason]int{}
	for r, n := range p.tally {
		if n > 0 {
			counts[Reason(r)] = n
		}
	}
	return counts
}

package allocator

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A history is a cluster in small: objects that users edit, a planner that sees
// each change late, and a controller whose writes land late. Whatever happens
// between, every object is seen in the order of its own changes.
type history struct {
	gen
	t        *testing.T
	now      time.Time
	services map[lb.ServiceKey]lb.Service // as they are
	seen     map[lb.ServiceKey]lb.Service // as the planner was told
	versions map[lb.ServiceKey]int        // of the objects
	put      map[lb.ServiceKey]int        // of what the planner was told
	told     map[lb.ServiceKey]string     // the condition of an object
	read     map[lb.ServiceKey]string     // of what the planner was told
	pools    []lb.Pool
	nodes    []lb.Node
	external []lb.ExternalIP
	news     []func() // what the planner has not seen yet, in order
	writes   map[lb.ServiceKey]decided
	last     map[lb.ServiceKey]lb.Service // as it was decided last
	grounds  map[lb.ServiceKey][]ground
	planner  *Planner
	eager    *Planner // is told the same, and looks at everything; nil for none
	touched  map[lb.ServiceKey]bool
	said     map[string]PoolDecision
	log      []string
	keepOnly bool // pools never reassign
	crowded  bool // most want to share
}

// A ground is what was seen when an address was given to a Service.
type ground struct {
	netip.Addr
	seen map[lb.ServiceKey]lb.Service
}

// A decided is a decision and the version of the object it was made for.
type decided struct {
	Decision
	version int
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{
		gen: gen{rand.New(rand.NewPCG(seed, 5))}, t: t, now: epoch.Add(time.Hour), services: map[lb.ServiceKey]lb.Service{},
		seen: map[lb.ServiceKey]lb.Service{}, versions: map[lb.ServiceKey]int{}, put: map[lb.ServiceKey]int{}, told: map[lb.ServiceKey]string{}, read: map[lb.ServiceKey]string{}, last: map[lb.ServiceKey]lb.Service{}, grounds: map[lb.ServiceKey][]ground{}, writes: map[lb.ServiceKey]decided{}, planner: New(), touched: map[lb.ServiceKey]bool{}, said: map[string]PoolDecision{},
	}
	for _, name := range []string{"edge", "lab"} {
		h.pools = append(h.pools, h.pool(name))
	}
	h.tellPools()
	return h
}

func (h *history) logf(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

func (h *history) tellPools() {
	pools := divided(h.pools)
	h.news = append(h.news, func() { h.inform(func(p *Planner) { p.SetPools(pools) }) })
}

func (h *history) tell(key lb.ServiceKey) {
	s, exists := h.services[key]
	h.versions[key]++
	version, told := h.versions[key], h.told[key]
	h.news = append(h.news, func() {
		h.put[key], h.read[key] = version, told
		if exists {
			h.seen[key] = s
			h.touched[key] = true
			h.inform(func(p *Planner) { p.Put(s) })
		} else {
			delete(h.seen, key)
			h.inform(func(p *Planner) { p.Delete(key) })
		}
	})
}

func (h *history) some() lb.ServiceKey {
	keys := slices.SortedFunc(maps.Keys(h.services), lb.ServiceKey.Compare)
	if len(keys) == 0 {
		return lb.ServiceKey{}
	}
	return keys[h.IntN(len(keys))]
}

// happen lets one thing happen.
func (h *history) happen() {
	switch n := h.IntN(100); {
	case n < 20: // a Service comes, or goes and comes as another
		s := h.service(h.key())
		h.crowd(&s)
		h.services[s.Key] = s
		if h.one(20) { // another controller was here before
			s.Assigned, s.Others = []netip.Addr{h.addr(h.family())}, pickOf(h.gen, nil, nil, []string{"lb.example.com"})
		}
		delete(h.told, s.Key)
		h.logf("create %+v", s)
		h.tell(s.Key)
	case n < 28:
		if s, ok := h.services[h.some()]; ok {
			delete(h.services, s.Key)
			h.logf("delete %v", s.Key)
			h.tell(s.Key)
		}
	case n < 36:
		if s, ok := h.services[h.some()]; ok {
			h.requests(&s)
			h.crowd(&s)
			h.services[s.Key] = s
			h.logf("edit %+v", s)
			h.tell(s.Key)
		}
	case n < 42:
		h.editPools()
	case n < 44:
		h.nodes = h.gen.nodes()
		nodes := h.nodes
		h.logf("nodes %v", nodes)
		h.external = h.gen.external()
		external := h.external
		h.news = append(h.news, func() { h.inform(func(p *Planner) { p.SetNodes(nodes); p.SetExternal(external) }) })
	case n < 45:
		h.elect()
	case n < 46:
		// Another controller replaces the status, and what we recorded there.
		if s, ok := h.services[h.some()]; ok && !h.keepOnly {
			s.AssignedPools = nil
			h.services[s.Key] = s
			h.logf("strip %v", s.Key)
			h.tell(s.Key)
		}
	case n < 47:
		// One that leaves our record takes the addresses out of the status.
		if s, ok := h.services[h.some()]; ok {
			s.Withdrawn = slices.DeleteFunc(slices.Clone(s.Assigned), func(a netip.Addr) bool { return s.RecordOf(a) == "" })
			h.services[s.Key] = s
			h.logf("withdraw %v", s.Key)
			h.tell(s.Key)
		}
	case n < 50:
		h.now = h.now.Add(time.Duration(h.IntN(8000)) * time.Millisecond)
		h.logf("now %v", h.now.Format("15:04:05"))
	case n < 70:
		h.see(1 + h.IntN(3))
	case n < 85:
		h.plan()
	default:
		h.write(h.some())
	}
}

// crowd has a Service want to share where most do.
func (h *history) crowd(s *lb.Service) {
	if h.crowded {
		s.Request.SharingKey, s.TrafficPolicy = pickOf(h.gen, "k", "k", "k", "l", ""), lb.TrafficCluster
		if h.one(80) {
			s.Request.Addresses, s.Request.Pool = nil, ""
		}
	}
}

func (h *history) editPools() {
	name := h.poolName()
	i := slices.IndexFunc(h.pools, func(p lb.Pool) bool { return p.Name == name })
	h.pools = slices.Clone(h.pools)
	switch {
	case i < 0:
		h.pools = append(h.pools, h.pool(name))
	case h.one(15) && !h.keepOnly: // as if by force: the finalizer of a pool in use is gone
		h.pools = slices.Delete(h.pools, i, i+1)
	default:
		next := h.pool(name)
		next.Created, next.Freed, next.Records = h.pools[i].Created, h.pools[i].Freed, h.pools[i].Records
		h.pools[i] = next
	}
	if h.keepOnly {
		for i := range h.pools {
			h.pools[i].Orphans = lb.OrphanKeep
		}
	}
	for _, p := range h.pools {
		h.logf("pool %+v allocation %+v", p, p.Allocation)
	}
	h.tellPools()
}

// elect puts a new leader in place: it sees everything, and what its predecessor
// was about to write is not written.
func (h *history) elect() {
	h.see(len(h.news))
	h.planner = New()
	if h.eager != nil {
		h.eager = New()
	}
	clear(h.writes)
	clear(h.said)
	clear(h.touched)
	h.logf("a new leader")
	h.inform(func(p *Planner) {
		p.SetPools(divided(h.pools))
		p.SetNodes(h.nodes)
		p.SetExternal(h.external)
		for _, s := range h.services {
			p.Put(s)
		}
	})
}

// inform tells the planners of something.
func (h *history) inform(of func(*Planner)) {
	of(h.planner)
	if h.eager != nil {
		of(h.eager)
	}
}

// see shows the planner the oldest news.
func (h *history) see(n int) {
	for ; n > 0 && len(h.news) > 0; n-- {
		h.news[0]()
		h.news = h.news[1:]
	}
}

// plan is one pass of the controller; the writes that follow from it wait.
func (h *history) plan() {
	before := map[lb.ServiceKey]Decision{}
	for key, s := range h.planner.services {
		if s.known {
			before[key] = s.decision
		}
	}
	said := map[string]PoolDecision{}
	for _, at := range h.planner.pools {
		said[at.Name] = at.said
	}
	r := h.planner.Plan(h.now)
	if err := cmp.Or(h.planner.audit(), h.planner.ledger()); err != nil {
		h.t.Error(err)
	}
	h.results(r, before, said)
	if h.eager != nil {
		compareEager(h)
	}
	for _, d := range r.Services {
		for _, a := range d.Assignments {
			if h.last[d.Service].UID != h.seen[d.Service].UID || !slices.Contains(h.last[d.Service].Assigned, a.Address) {
				h.grounds[d.Service] = append(h.grounds[d.Service], ground{a.Address, maps.Clone(h.seen)})
			}
		}
		h.last[d.Service] = d.Apply(h.seen[d.Service])
		if s := h.seen[d.Service]; d.Changes(s) || d.Sentence() != h.read[d.Service] {
			h.writes[d.Service] = decided{d, h.put[d.Service]}
			h.logf("decide %v %v %v: %s", d.Service, d.Assignments, d.Reason, d.Sentence())
		} else {
			delete(h.writes, d.Service)
		}
	}
	for _, d := range r.Pools {
		h.said[d.Pool] = d
	}
	h.writePools()
}

func (h *history) writePools() {
	changed := false
	h.pools = slices.Clone(h.pools)
	for i, p := range h.pools {
		var orphans []netip.Addr
		for _, s := range h.planner.services {
			for _, a := range s.decision.Assignments {
				if a.Orphan && a.Pool == p.Name && !slices.Contains(orphans, a.Address) {
					orphans = append(orphans, a.Address)
				}
			}
		}
		slices.SortFunc(orphans, netip.Addr.Compare)
		if !slices.Equal(p.Records, orphans) {
			h.pools[i].Records, changed = orphans, true
		}
		d, ok := h.said[p.Name]
		if ok && !slices.Equal(p.Freed, d.Freed) {
			h.pools[i].Freed, changed = d.Freed, true
		}
	}
	if changed {
		h.tellPools()
	}
}

// write carries out one decision, if the object still is what it was made for.
func (h *history) write(key lb.ServiceKey) {
	d, waits := h.writes[key]
	s, exists := h.services[key]
	delete(h.writes, key)
	if !waits || !exists || h.versions[key] != d.version {
		return
	}
	for _, a := range d.Assignments {
		if slices.Contains(s.Assigned, a.Address) {
			continue
		}
		for other, o := range h.services {
			if other != key && o.RecordOf(a.Address) != "" {
				// What was shared when it was decided may come apart meanwhile.
				shared := func(g ground) bool {
					x, y := g.seen[key], g.seen[other]
					return g.Addr == a.Address && x.UID == s.UID && y.UID == o.UID && slowlyShares(&x, &y)
				}
				if !slices.ContainsFunc(h.grounds[key], shared) && !slices.ContainsFunc(h.grounds[other], shared) {
					h.t.Errorf("%v is written to %v while %v still holds it", a.Address, key, other)
				}
			}
		}
	}
	h.logf("write %v %v", key, d.Assignments)
	h.services[key], h.told[key] = d.Apply(s), d.Sentence()
	h.tell(key)
}

// settle sees, plans and writes until nothing is left to do.
func (h *history) settle() {
	for range 100 {
		h.see(len(h.news))
		h.plan()
		if len(h.writes) == 0 && len(h.news) == 0 {
			return
		}
		for _, key := range slices.SortedFunc(maps.Keys(h.writes), lb.ServiceKey.Compare) {
			h.write(key)
		}
	}
	h.t.Errorf("does not settle")
}

func (h *history) world() World {
	return World{Pools: divided(h.pools), Nodes: h.nodes, External: h.external, Services: slices.Collect(maps.Values(h.services)), Now: h.now}
}

// check compares the planner with one that starts from the objects as they are,
// and the objects with what must always hold.
func (h *history) check() {
	fresh := Plan(h.world())
	for _, want := range fresh.Services {
		s := h.services[want.Service]
		if got := h.planner.services[want.Service].decision; !got.Equal(want) {
			h.t.Errorf("%v: the planner says %v %q, one that starts now %v %q", s.Key, got.Reason, got.Sentence(), want.Reason, want.Sentence())
		}
		if want.Changes(s) {
			h.t.Errorf("%v: has settled, but planned again changes to %v", s.Key, want.Assignments)
		}
	}
	for i, want := range fresh.Pools {
		if got := h.planner.pools[i].decision(); !reflect.DeepEqual(got, want) {
			h.t.Errorf("pool %s: the planner says\n%+v, one that starts now\n%+v", want.Pool, got, want)
		}
	}
	holders := map[netip.Addr][]lb.Service{}
	for _, s := range h.services {
		// Of two addresses whose records were lost, both may be foreign.
		if len(s.Assigned) > 2 || len(s.Assigned) > 1 && (s.RecordOf(s.Assigned[0]) == "") != (s.RecordOf(s.Assigned[1]) == "") {
			h.t.Errorf("%v holds %v", s.Key, s.Assigned)
		}
		for _, a := range s.Assigned {
			if s.RecordOf(a) == "" {
				continue // not ours
			}
			for _, o := range holders[a] {
				if !slowlyShares(&s, &o) {
					h.t.Errorf("%v and %v hold %v and may not share", s.Key, o.Key, a)
				}
			}
			holders[a] = append(holders[a], s)
		}
	}
}

func histories(t *testing.T, n int, f func(h *history)) {
	t.Helper()
	if testing.Short() {
		n /= 4
	}
	for seed := range uint64(n) {
		h := newHistory(t, seed)
		f(h)
		if t.Failed() {
			for _, line := range h.log {
				t.Log(line)
			}
			t.Fatalf("seed %d", seed)
		}
	}
}

// In particular: an informer that lags, writes that land late or fail, leaders
// that come and go.
func TestAnyHistoryEndsWhereOneWouldStart(t *testing.T) {
	histories(t, 800, func(h *history) {
		for range 4 {
			for range 40 {
				h.happen()
			}
			h.settle()
			h.check()
		}
	})
}

// inUse are the addresses of those Services that hold all they want.
func (h *history) inUse() map[lb.ServiceKey][]netip.Addr {
	all := map[lb.ServiceKey][]netip.Addr{}
	for key, s := range h.services {
		if d := h.planner.services[key].decision; d.Reason.Satisfied() {
			all[key] = s.Assigned
		}
	}
	return all
}

func TestAnEditOfPoolsOrNodesMovesNothingInUse(t *testing.T) {
	histories(t, 400, func(h *history) {
		h.keepOnly = true
		h.editPools()
		for range 60 {
			h.happen()
		}
		h.settle()
		before := h.inUse()
		for range 3 {
			h.editPools()
			h.settle()
		}
		for key, addresses := range before {
			if got := h.services[key].Assigned; !slices.Equal(got, addresses) {
				h.t.Errorf("%v held %v and by an edit holds %v", key, addresses, got)
			}
		}
	})
}

// Whatever a pool grows over, and whatever the pools' orphanPolicy.
func TestAPoolThatGrowsMovesNothingInUse(t *testing.T) {
	grown := 0
	histories(t, 400, func(h *history) {
		for range 80 {
			h.happen()
		}
		h.settle()
		before := h.inUse()
		for _, restarts := range []bool{false, true} {
			if len(h.pools) == 0 {
				return
			}
			i, j := h.IntN(len(h.pools)), h.IntN(len(h.pools))
			h.pools = slices.Clone(h.pools)
			h.pools[i].Ranges = ranges.Union(h.pools[i].Ranges, h.pools[j].Ranges)
			h.logf("%s grows over %s", h.pools[i].Name, h.pools[j].Name)
			h.tellPools()
			if restarts {
				h.elect()
			}
			h.settle()
		}
		for key, addresses := range before {
			got := h.planner.services[key].decision
			if !slices.Equal(h.services[key].Assigned, addresses) {
				h.t.Errorf("%v held %v and by growth holds %v", key, addresses, h.services[key].Assigned)
			}
			if got.Reason == Kept && got.Detail.KeptReason == KeptLost {
				grown++
			}
		}
	})
	if grown == 0 {
		t.Error("nothing in use was grown over: the test has lost its point")
	}
}

// audit checks the planner's books: every address that may be handed out is in
// exactly one place.
func (p *Planner) audit() error {
	for _, at := range p.pools {
		for f := range at.perFamily {
			h := &at.perFamily[f]
			free := uint64(len(h.freeList))
			for _, block := range h.fresh.blocks {
				for _, s := range block {
					for a := s.lo; !s.hi.less(a); a = a.next() {
						if p.lendable(at, a) {
							free++
						}
						if p.uses[a] != nil && p.lendable(at, a) {
							return fmt.Errorf("pool %s: %v is fresh and in use", at.Name, a.netip())
						}
					}
				}
			}
			reserved := 0
			for _, e := range h.freeList {
				if p.uses[e.addr] != nil || h.fresh.contains(e.addr) {
					return fmt.Errorf("pool %s: %v is in the free list and elsewhere", at.Name, e.netip())
				}
				if e.reserved {
					reserved++
				}
			}
			if free+h.taken-h.odd != h.total-h.external || reserved != h.reserved {
				return fmt.Errorf("pool %s: %d free and %d taken (%d odd) make not %d; %d reserved, counted %d",
					at.Name, free, h.taken, h.odd, h.total-h.external, reserved, h.reserved)
			}
		}
	}
	return nil
}

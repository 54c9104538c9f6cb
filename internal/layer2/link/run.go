package link

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// Run lives until the context ends, then closes everything it opened. It
// returns an error only when it cannot subscribe to the kernel's changes at the
// start.
func (l *Link) Run(ctx context.Context) error {
	r := &runner{
		Link:      l,
		schedule:  layer2.NewSchedule(layer2.Pace{Rate: l.options.Rate, Refresh: l.options.RefreshInterval}),
		ports:     map[int]*port{},
		broken:    make(chan broken),
		flapped:   map[int]bool{},
		pause:     settle,
		unsettled: true,
	}
	l.fence.begin(uptime())
	if err := r.subscribe(ctx); err != nil {
		return err
	}
	defer r.close()
	r.readers.Go(func() { l.closeDiscarded(ctx.Done()) })
	r.readers.Go(func() { l.fence.run(ctx) })
	defer func() {
		l.settled.Store(nil)
		poke(l.ready)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-l.wake:
			r.unsettled = true
		case a := <-l.announce:
			r.schedule.Announce(time.Now(), a)
		case a := <-l.defend:
			for _, g := range r.schedule.Defend(time.Now(), a) {
				r.send(g)
			}
		case b := <-r.broken:
			r.drop(b)
		case down, ok := <-r.changes():
			r.hear(down, ok)
		}
		r.step(ctx, time.Now())
		timer.Reset(time.Until(r.next))
	}
}

// A runner is the state of one Run; only its goroutine touches it.
type runner struct {
	*Link
	schedule *layer2.Schedule
	ports    map[int]*port
	readers  sync.WaitGroup
	broken   chan broken
	sub      *subscription // nil while broken

	unlisted  bool         // the kernel reported a change since it was last listed
	flapped   map[int]bool // interfaces that lost carrier since last listed
	listed    time.Time
	pause     time.Duration // least time between listings
	unsettled bool          // what is wanted or what the kernel has is new
	short     bool          // the kernel refused something, or something broke

	filters  filters
	packets  []layer2.Gratuitous
	retry    time.Time     // when to try again what was refused; zero when nothing was
	patience time.Duration // how long after that
	next     time.Time     // when to step without a cause
}

type filters struct {
	claims   *wanted
	watched  *[]lb.AddressRange
	programs map[lb.Family][]bpf.Instruction
}

// A port is an interface on which we answer.
type port struct {
	index  int
	name   string
	ears   map[lb.Family]*ear
	groups *membership
	ipv6   bool // the kernel had IPv6 on the interface when last seen
	// refused is what the kernel refused last; it is logged when it changes.
	refused string
}

// An ear hears one family on one port.
type ear struct {
	*socket
	counters atomic.Pointer[counters]
}

type broken struct {
	port   *port
	family lb.Family
	ear    *ear
	err    error
}

func (r *runner) changes() <-chan []int {
	if r.sub == nil {
		return nil
	}
	return r.sub.changes
}

func (r *runner) subscribe(ctx context.Context) error {
	sub, err := r.subscribeTo()
	if err != nil {
		return err
	}
	r.sub = sub
	r.unlisted = true
	r.readers.Go(func() { sub.run(ctx) })
	return nil
}

// hear takes in a report of changes, and all that are waiting behind it.
func (r *runner) hear(down []int, ok bool) {
	for {
		if !ok {
			r.log.Warn("netlink subscription failed; opening a new one", "err", r.sub.err)
			r.sub.socket.Close()
			r.sub = nil
			return
		}
		r.unlisted = true
		for _, index := range down {
			r.flapped[index] = true
		}
		select {
		case down, ok = <-r.sub.changes:
		default:
			return
		}
	}
}

func (r *runner) drop(b broken) {
	b.ear.close()
	if r.ports[b.port.index] == b.port && b.port.ears[b.family] == b.ear {
		r.log.Warn("packet socket failed; opening a new one", "interface", b.port.name, "family", b.family.String(), "err", b.err)
		delete(b.port.ears, b.family)
		r.short = true
	}
}

// step brings everything up to date that can be at this moment.
func (r *runner) step(ctx context.Context, now time.Time) {
	if !r.retry.IsZero() && !now.Before(r.retry) {
		r.retry = time.Time{}
		r.unlisted, r.unsettled = true, true
		if r.sub == nil {
			if err := r.subscribe(ctx); err != nil {
				r.log.Warn("cannot subscribe to interface changes; will retry", "err", err)
			}
		}
	}
	if r.unlisted && !now.Before(r.listed.Add(r.pause)) {
		r.list(now)
	}
	if r.unsettled {
		r.settle(ctx, now)
	}
	wake := now.Add(pulsing)
	if r.fence.open(uptime()) {
		r.packets, wake = r.schedule.Next(now, r.packets[:0])
		for _, g := range r.packets {
			r.send(g)
		}
	}
	switch {
	case r.sub != nil && !r.short:
		r.retry, r.patience = time.Time{}, 0
	case r.retry.IsZero():
		r.patience = min(max(soon, 2*r.patience), late)
		r.retry = now.Add(r.patience)
	}
	r.next = now.Add(time.Hour)
	if r.unlisted {
		r.next = r.listed.Add(r.pause)
	}
	for _, t := range []time.Time{wake, r.retry} {
		if !t.IsZero() && t.Before(r.next) {
			r.next = t
		}
	}
}

func (r *runner) list(now time.Time) {
	r.listed = now
	r.metrics.listings.Inc()
	interfaces, err := list()
	if err != nil { // a dump that was interrupted by another change, as a rule
		r.log.Debug("cannot list interfaces; will retry", "err", err)
		r.pause = min(2*r.pause, soon)
		return
	}
	for i := range interfaces {
		interfaces[i].Sealed = r.sealed
	}
	r.unlisted, r.pause = false, settle
	if !slices.EqualFunc(interfaces, r.Interfaces(), lb.Interface.Equal) {
		r.station.Store(layer2.NewStation(interfaces))
		r.unsettled = true
		poke(r.changed)
	}
	if r.sub != nil && r.sub.follow(doubled(interfaces)) {
		r.unlisted = true // a route may have changed before it was followed
	}
	for index := range r.flapped {
		r.schedule.Restart(now, index)
	}
	clear(r.flapped)
}

// settle makes sockets, filters, groups and schedule what is wanted.
func (r *runner) settle(ctx context.Context, now time.Time) {
	r.unsettled, r.short = false, false
	station, want := r.station.Load(), r.wanted.Load()
	effective := withoutHeld(want, station)

	needs := map[int]map[lb.Family]int{}
	for _, c := range effective {
		for _, index := range c.Interfaces {
			if needs[index] == nil {
				needs[index] = map[lb.Family]int{}
			}
			needs[index][lb.FamilyOf(c.Address)]++
		}
	}
	for index, p := range r.ports {
		if i, ok := station.Interface(index); !ok || !hearable(i) || needs[index] == nil {
			r.closePort(p)
			if !ok {
				r.metrics.forget(p.name)
			}
		}
	}
	for index, p := range r.ports { // before any is renamed: two may have swapped names
		if i, _ := station.Interface(index); i.Name != p.name {
			r.metrics.forget(p.name)
		}
	}
	r.refilter(want)
	var deaf []int
	for _, index := range slices.Sorted(maps.Keys(needs)) {
		if i, ok := station.Interface(index); ok && hearable(i) {
			opened, err := r.openPort(ctx, i, needs[index], effective)
			if r.complain(r.ports[index], err); err != nil {
				r.short = true
			}
			if opened {
				deaf = append(deaf, index)
			}
		}
	}
	r.schedule.Update(now, effective, station.Interfaces())
	for _, index := range deaf { // what was announced before is not known to have left
		r.schedule.Restart(now, index)
	}
	r.settled.Store(want)
	poke(r.ready)
}

// complain logs what the kernel refused, once.
func (r *runner) complain(p *port, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != p.refused && text != "" {
		r.log.Warn("cannot set up sockets and groups; will retry", "interface", p.name, "err", err)
	}
	p.refused = text
}

// hearable reports whether frames can come in on an interface, now or when its
// carrier returns.
func hearable(i lb.Interface) bool {
	switch i.Fault() {
	case lb.InterfaceOK, lb.InterfaceDown, lb.InterfaceNoCarrier:
		return true
	default:
		return false
	}
}

// withoutHeld returns the claims without the addresses that the kernel has on
// the very interface: it answers and announces those itself.
func withoutHeld(w *wanted, s *layer2.Station) []layer2.Claim {
	held := false
	for _, i := range s.Interfaces() {
		for _, p := range i.Addresses {
			held = held || w.table.Claims(p.Addr(), i.Index)
		}
	}
	if !held {
		return w.claims
	}
	out := make([]layer2.Claim, 0, len(w.claims))
	for _, c := range w.claims {
		c.Interfaces = slices.DeleteFunc(slices.Clone(c.Interfaces), func(index int) bool { return s.Holds(c.Address, index) })
		out = append(out, c)
	}
	return out
}

// refilter computes the filters when what they depend on has changed, and
// installs them on the open sockets.
func (r *runner) refilter(want *wanted) {
	watched := r.watched.Load()
	if r.filters.claims == want && r.filters.watched == watched {
		return
	}
	r.filters = filters{want, watched, map[lb.Family][]bpf.Instruction{
		lb.IPv4: filterARP(scopeOf(lb.IPv4, *watched, want.claims)),
		lb.IPv6: filterNDP(scopeOf(lb.IPv6, *watched, want.claims)),
	}}
	for _, p := range r.ports {
		for family, e := range p.ears {
			if err := e.setFilter(r.filters.programs[family]); err != nil {
				r.log.Warn("cannot set the socket filter; opening a new socket", "interface", p.name, "err", err)
				e.close()
				delete(p.ears, family)
			}
		}
	}
}

// openPort opens what is missing on an interface and closes what is not needed.
// It returns whether a socket was opened and what the kernel refused last.
func (r *runner) openPort(ctx context.Context, i lb.Interface, needs map[lb.Family]int, claims []layer2.Claim) (opened bool, refused error) {
	p := r.ports[i.Index]
	if p == nil {
		p = &port{index: i.Index, name: i.Name, ears: map[lb.Family]*ear{}, groups: newMembership(i.Index)}
		r.ports[i.Index] = p
	}
	if p.name != i.Name {
		p.name = i.Name
		for family, e := range p.ears {
			e.counters.Store(r.metrics.of(p.name, family))
		}
	}
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		e := p.ears[family]
		if needs[family] == 0 {
			if e != nil {
				e.close()
				delete(p.ears, family)
			}
		} else if e == nil {
			if err := r.open(ctx, p, family); err != nil {
				refused = err
			} else {
				opened = true
			}
		}
		r.metrics.addresses.WithLabelValues(p.name, family.String()).Set(float64(needs[family]))
	}
	ipv6 := slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if p.ipv6 && !ipv6 {
		// The kernel may have dropped IPv6 from the interface (an MTU below 1280
		// does that), and with it the groups, though the sockets think otherwise.
		p.groups.close()
	}
	p.ipv6 = ipv6
	if err := p.groups.set(layer2.Groups(claims, i.Index)); err != nil && i.Up {
		refused = err
	}
	return opened, refused
}

func (r *runner) open(ctx context.Context, p *port, family lb.Family) error {
	etherType, receive := etherARP, receiveARP
	if family == lb.IPv6 {
		etherType, receive = etherIPv6, receiveNDP
	}
	s, err := r.openSocket(p.index, etherType, r.wait(), r.filters.programs[family])
	if err != nil {
		return fmt.Errorf("open %v packet socket: %w", family, err)
	}
	e := &ear{socket: s}
	e.counters.Store(r.metrics.of(p.name, family))
	p.ears[family] = e
	r.readers.Go(func() {
		err := s.receive(func(frame []byte) {
			r.take(e, p.index, receive(r.wanted.Load().table, r.station.Load(), p.index, frame))
		})
		if err != nil {
			select {
			case r.broken <- broken{p, family, e, err}:
			case <-ctx.Done():
			}
		}
	})
	return nil
}

// wait returns how one more socket is to wait.
func (r *runner) wait() wait {
	n := 0
	for _, p := range r.ports {
		for _, e := range p.ears {
			if e.alarm != nil {
				n++
			}
		}
	}
	if n < threads {
		return byThread
	}
	return byRuntime
}

// take acts on what a frame amounts to. It runs on the reader's goroutine.
func (l *Link) take(e *ear, index int, o outcome) {
	c := e.counters.Load()
	if o.malformed != wellFormed {
		c.malformed[o.malformed].Inc()
		return
	}
	if o.reply != nil {
		if !l.fence.open(uptime()) || e.send(o.reply) != nil {
			c.unsent.Inc()
		} else {
			c.replies.Inc()
		}
	}
	if o.asked {
		c.requests[o.verdict].Inc()
	}
	if !o.foreign || !layer2.Watched(*l.watched.Load(), o.uses) && !l.wanted.Load().table.ClaimsAnywhere(o.uses) {
		return
	}
	c.heard[o.kind].Inc()
	select {
	case l.heard <- layer2.Heard{At: time.Now(), Address: o.uses, MAC: o.usedBy, Interface: index, Kind: o.kind}:
	default:
		l.metrics.unheard.Inc()
	}
}

// send sends one gratuitous packet, unless its address was withdrawn, its interface
// lost or this process stopped since it was scheduled.
func (r *runner) send(g layer2.Gratuitous) {
	family := lb.FamilyOf(g.Address)
	p := r.ports[g.Interface]
	if p == nil || p.ears[family] == nil || !r.wanted.Load().table.Claims(g.Address, g.Interface) || !r.fence.open(uptime()) {
		return
	}
	mac := r.station.Load().MAC(g.Interface)
	frame := unsolicitedNA
	if family == lb.IPv4 {
		frame = gratuitousARP
	}
	e := p.ears[family]
	if err := e.send(frame(g.Form, mac, g.Address)); err != nil {
		e.counters.Load().unsent.Inc()
		return
	}
	r.metrics.gratuitous.WithLabelValues(p.name, g.Form.String()).Inc()
}

func (r *runner) closePort(p *port) {
	for family, e := range p.ears {
		e.close()
		r.metrics.addresses.WithLabelValues(p.name, family.String()).Set(0)
	}
	p.groups.close()
	delete(r.ports, p.index)
}

// close ends every reader and waits for them.
func (r *runner) close() {
	if r.sub != nil {
		r.sub.socket.Close()
	}
	for _, p := range r.ports {
		r.closePort(p)
	}
	r.readers.Wait()
}

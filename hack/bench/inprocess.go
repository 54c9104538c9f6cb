package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// epoch is when the worlds of the measurements begin.
var epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// startProfile profiles this process while an experiment runs.
func (b *bench) startProfile(e experiment) (stop func(), err error) {
	if b.profile == "" {
		return func() {}, nil
	}
	name, _, _ := strings.Cut(e.rows[0], "/")
	f, err := os.Create(filepath.Join(b.profile, name+".pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

func pool(name, first, last string) lb.Pool {
	return lb.Pool{
		Name: name, Created: epoch, AutoAssign: true,
		Ranges: []lb.AddressRange{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}},
	}
}

func service(i int) lb.Service {
	return lb.Service{
		Key: lb.ServiceKey{Namespace: "bench", Name: fmt.Sprintf("s%06d", i)}, Created: epoch.Add(time.Duration(i) * time.Second),
		Families: []lb.Family{lb.IPv4}, Ports: []lb.Port{{Protocol: lb.TCP, Number: 80}},
	}
}

// median returns the middle of some values.
func median[T int | float64 | time.Duration](values []T) T {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}

// allocateOneByOne creates Services one after the other, each when the one
// before has its address.
func allocateOneByOne(ctx context.Context, b *bench) error {
	each := map[int]time.Duration{}
	for _, n := range []int{1000, 4000, 16000, 64000} {
		var took []time.Duration
		for range 5 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d, err := allocate(n)
			if err != nil {
				return err
			}
			took = append(took, d)
		}
		best := slices.Min(took)
		each[n] = best / time.Duration(n)
		b.found(fmt.Sprintf("allocate/%dk", n/1000), best.Seconds(), "%s each", duration(each[n]))
	}
	b.found("allocate/linear", float64(each[64000])/float64(each[1000]), "")
	return nil
}

// allocate allocates n Services and returns how long that takes.
func allocate(n int) (time.Duration, error) {
	services := make([]lb.Service, n)
	for i := range services {
		services[i] = service(i)
	}
	runtime.GC()
	begun := time.Now()
	p := allocator.New()
	p.SetPools([]lb.Pool{pool("edge", "10.0.0.0", "10.255.255.255")})
	for _, s := range services {
		p.Put(s)
		r := p.Plan(epoch)
		// The last in order is the new one; the one before may be seen again.
		d := r.Services[len(r.Services)-1]
		if d.Service != s.Key || d.Reason != allocator.Allocated {
			return 0, fmt.Errorf("%v: %s", d.Service, d.Sentence())
		}
		p.Put(d.Apply(s))
	}
	return time.Since(begun), nil
}

// allocateInVain looks at a Service again and again for which there is no
// address left.
func allocateInVain(_ context.Context, b *bench) error {
	p := allocator.New()
	p.SetPools([]lb.Pool{pool("edge", "10.0.0.0", "10.0.15.255")})
	const size = 4096
	for i := range size + 1 {
		p.Put(service(i))
	}
	last := service(size)
	d := p.Plan(epoch).Services[size]
	if d.Service != last.Key || d.Reason != allocator.Exhausted {
		return fmt.Errorf("%v: %s", d.Service, d.Sentence())
	}
	b.found("allocate/exhausted", fastest(func() {
		p.Put(last)
		p.Plan(epoch)
	}), "")
	return nil
}

// wait lets 20,000 Services wait for 200 full pools, and then an address come free
// and go.
func wait(_ context.Context, b *bench) error {
	const waiting, full = 20_000, 200
	var before, after runtime.MemStats
	var services []lb.Service
	for i := range waiting + full + 1 {
		services = append(services, service(i))
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := allocator.New()
	var pools []lb.Pool
	for i := range full {
		a := netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}).String()
		pools = append(pools, pool(fmt.Sprintf("p%03d", i), a, a))
	}
	p.SetPools(pools)
	for _, s := range services {
		p.Put(s)
	}
	// What those who wait are told is written, and so is kept by others.
	for _, d := range p.Plan(epoch).Services[:full] {
		p.Put(d.Apply(services[slices.IndexFunc(services, func(s lb.Service) bool { return s.Key == d.Service })]))
	}
	p.Plan(epoch)
	if got := p.Reasons(); got[allocator.Exhausted] != waiting+1 || got[allocator.Allocated] != full {
		return fmt.Errorf("the reasons are %v", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.found("allocate/waiting", float64(after.HeapAlloc-before.HeapAlloc), "%d B each", int(after.HeapAlloc-before.HeapAlloc)/waiting)
	begun := time.Now()
	p.Delete(service(0).Key)
	p.Plan(epoch)
	took := time.Since(begun)
	b.found("allocate/waiting-look", took.Seconds(), "%s each", duration(took/waiting))
	runtime.KeepAlive(services)
	return nil
}

// compilePools compiles 8,000 pools that have nothing in common.
func compilePools(_ context.Context, b *bench) error {
	var o config.Objects
	for i := range 8000 {
		p := &v1beta1.IPAddressPool{}
		p.Name = fmt.Sprintf("p%04d", i)
		p.CreationTimestamp.Time = epoch.Add(time.Duration(i*7919%8000) * time.Second)
		p.Spec.Addresses = []v1beta1.AddressRange{v1beta1.AddressRange(fmt.Sprintf("10.%d.%d.0/29", i>>8, i&255))}
		o.Pools = append(o.Pools, p)
	}
	best, memory := time.Duration(math.MaxInt64), uint64(math.MaxUint64)
	for range 5 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		begun := time.Now()
		c := config.Compile(o)
		p := allocator.New()
		p.SetPools(c.Pools)
		r := p.Plan(epoch)
		best = min(best, time.Since(begun))
		runtime.ReadMemStats(&after)
		memory = min(memory, after.TotalAlloc-before.TotalAlloc)
		if len(r.Pools) != len(o.Pools) || r.Pools[0].V4.Total != 8 {
			return fmt.Errorf("%d pools, the first is %+v", len(r.Pools), r.Pools[0])
		}
	}
	b.found("allocate/pools", best.Seconds(), "")
	b.found("allocate/pools-memory", float64(memory), "")
	return nil
}

// disentangle plans for Services that all hold one address.
func disentangle(_ context.Context, b *bench) error {
	plan := func(n int) (time.Duration, error) {
		services := make([]lb.Service, n)
		for i := range services {
			services[i] = service(i)
			services[i].Assigned = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		runtime.GC()
		begun := time.Now()
		p := allocator.New()
		p.SetPools([]lb.Pool{pool("edge", "10.0.0.0", "10.255.255.255")})
		for _, s := range services {
			p.Put(s)
		}
		for i, d := range p.Plan(epoch).Services {
			p.Put(d.Apply(services[i]))
		}
		p.Plan(epoch)
		if got := p.Reasons(); got[allocator.Allocated] != n {
			return 0, fmt.Errorf("the reasons are %v", got)
		}
		return time.Since(begun), nil
	}
	each := map[int]time.Duration{}
	for _, n := range []int{1000, 8000} {
		best := time.Duration(math.MaxInt64)
		for range 5 {
			d, err := plan(n)
			if err != nil {
				return err
			}
			best = min(best, d)
		}
		each[n] = best / time.Duration(n)
	}
	b.found("allocate/wrong", (each[8000] * 8000).Seconds(), "%s each", duration(each[8000]))
	b.found("allocate/wrong-linear", float64(each[8000])/float64(each[1000]), "")
	return nil
}

// fastest returns how long an operation takes, in seconds: the best of 20 runs
// of 20 ms or more, as whatever else the machine does can only add to it.
func fastest(operate func()) float64 {
	const runs, long = 20, 20 * time.Millisecond
	timed := func(n int) time.Duration {
		begun := time.Now()
		for range n {
			operate()
		}
		return time.Since(begun)
	}
	n := 1
	for timed(n) < long {
		n *= 2
	}
	best := timed(n)
	for range runs {
		best = min(best, timed(n))
	}
	return best.Seconds() / float64(n)
}

// lookUp asks a table of 10,000 addresses.
func lookUp(_ context.Context, b *bench) error {
	const ifindex = 2
	var claims []layer2.Claim
	a := netip.MustParseAddr("10.1.0.0")
	for range 10000 {
		a = a.Next()
		claims = append(claims, layer2.Claim{Address: a, Interfaces: []int{ifindex}})
	}
	table := layer2.NewTable(claims)
	us, them := lb.MAC{2, 0, 0, 0, 0, 1}, lb.MAC{2, 0, 0, 0, 0, 2}
	station := layer2.NewStation([]lb.Interface{{Index: ifindex, MAC: us, Up: true, Carrier: true}})
	var allocations float64
	for _, c := range []struct {
		row  string
		ask  func(i int) netip.Addr
		want layer2.Verdict
	}{
		{"lookup/hit", func(i int) netip.Addr { return claims[i*7919%len(claims)].Address }, layer2.Answered},
		{"lookup/miss", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }, layer2.NotOurs},
	} {
		const many = 4096
		questions := make([]layer2.Question, many)
		for i := range questions {
			questions[i] = layer2.Question{Interface: ifindex, Target: c.ask(i), Sender: netip.MustParseAddr("10.0.0.9"), SenderMAC: them}
		}
		wrong := 0
		all := func() {
			for i := range questions {
				if table.Decide(station, questions[i]) != c.want {
					wrong++
				}
			}
		}
		took := fastest(all) / many
		allocations += testing.AllocsPerRun(10, all)
		if wrong > 0 {
			return fmt.Errorf("%s: %d verdicts are wrong", c.row, wrong)
		}
		b.found(c.row, took, "")
	}
	b.found("lookup/allocations", allocations, "")
	return nil
}

// decide decides for 10,000 addresses of 1,000 nodes.
func decide(_ context.Context, b *bench) error {
	const addresses, nodes = 10000, 1000
	s := lb.Snapshot{
		Pools:            []lb.Pool{{Name: "p"}},
		L2Advertisements: []lb.L2Advertisement{{Name: "all", ExcludeInterfaces: []string{"docker*", "veth*", "cali*"}}},
	}
	var members []election.Member
	for i := range nodes {
		s.Nodes = append(s.Nodes, lb.Node{Name: fmt.Sprintf("node-%03d", i)})
		members = append(members, election.Member{
			Node: s.Nodes[i].Name, State: election.Alive, Claims: election.Claims{}, Version: election.Version{Boot: 1, Seq: 1},
			Interfaces: []lb.Interface{{
				Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, Up: true, Carrier: true,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")},
			}},
		})
	}
	a := netip.MustParseAddr("10.1.0.0")
	for i := range addresses {
		a = a.Next()
		s.Services = append(s.Services, lb.Service{
			Key: service(i).Key, Assigned: []netip.Addr{a}, AssignedPools: []string{"p"},
			Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"node-001": {Ready: 1}, "node-002": {Ready: 1}}},
		})
		members[i%nodes].Claims[a] = election.Claim{Quorum: election.Majority, Epoch: 1}
	}
	var ix *announce.Index
	b.found("decide/index", fastest(func() { ix = announce.NewIndex(s, eligibility.Options{}) }), "")
	const self = "node-001"
	all := func(row string, intent announce.Intent) error {
		if n := len(intent.Decisions); n != addresses {
			return fmt.Errorf("%s: %d addresses are decided about", row, n)
		}
		for _, v := range intent.Decisions {
			if v.Owner == "" {
				return fmt.Errorf("%s: nobody announces %v (%v)", row, v.Address, v.Reason)
			}
		}
		return nil
	}
	if err := all("decide/settled", announce.Decide(ix, members, nil, self)); err != nil {
		return err
	}
	b.found("decide/settled", fastest(func() { announce.Decide(ix, members, nil, self) }), "")

	var decider announce.Decider
	lost := members[1:]
	if err := all("decide/node-lost", decider.Decide(ix, lost, nil, self)); err != nil {
		return err
	}
	best := math.MaxFloat64
	for range 100 {
		decider.Decide(ix, members, nil, self)
		begun := time.Now()
		decider.Decide(ix, lost, nil, self)
		best = min(best, time.Since(begun).Seconds())
	}
	b.found("decide/node-lost", best, "")
	return nil
}

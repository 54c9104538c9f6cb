package allocator

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

var epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func rangeOf(s string) lb.AddressRange {
	p := netip.MustParsePrefix(s)
	last := number(p.Masked().Addr())
	host := uint(p.Addr().BitLen() - p.Bits())
	if host >= 64 {
		last.lo, last.hi = ^uint64(0), last.hi|(1<<(host-64)-1)
	} else {
		last.lo |= 1<<host - 1
	}
	return lb.AddressRange{First: p.Masked().Addr(), Last: last.netip()}
}

func simplePool(name string, prefixes ...string) lb.Pool {
	p := lb.Pool{Name: name, Created: epoch, AutoAssign: true}
	for _, s := range prefixes {
		p.Ranges = append(p.Ranges, rangeOf(s))
	}
	return p
}

func simpleService(i int) lb.Service {
	return lb.Service{
		Key: lb.ServiceKey{Namespace: "bench", Name: fmt.Sprintf("s%06d", i)}, Created: epoch.Add(time.Duration(i) * time.Second),
		Families: []lb.Family{lb.IPv4}, Ports: []lb.Port{{Protocol: lb.TCP, Number: 80}},
	}
}

func simpleServiceOf(f lb.Family, i int) lb.Service {
	s := simpleService(i)
	s.Families = []lb.Family{f}
	return s
}

// One Service after the other: put, planned, carried out, seen.
func BenchmarkOneAfterTheOther(b *testing.B) {
	for _, n := range []int{1000, 4000, 16000, 64000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p := New()
				p.SetPools([]lb.Pool{simplePool("edge", "10.0.0.0/8", "2001:db8::/64")})
				for i := range n {
					s := simpleService(i)
					p.Put(s)
					r := p.Plan(epoch)
					d := r.Services[len(r.Services)-1] // after the last one, which was seen meanwhile
					if d.Service != s.Key || d.Reason != Allocated {
						b.Fatalf("decided %v: %s", d.Service, d.Sentence())
					}
					p.Put(d.Apply(s))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/service")
		})
	}
}

func BenchmarkAllAtOnce(b *testing.B) {
	for _, n := range []int{1000, 16000, 64000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := World{Pools: []lb.Pool{simplePool("edge", "10.0.0.0/8", "2001:db8::/64")}, Now: epoch}
			for i := range n {
				w.Services = append(w.Services, simpleService(i))
			}
			for b.Loop() {
				Plan(w)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/service")
		})
	}
}

// What one more look at a Service costs that an exhausted /20 cannot serve.
func BenchmarkFailing(b *testing.B) {
	p := New()
	p.SetPools([]lb.Pool{simplePool("edge", "10.0.0.0/20"), {Name: "lab", AutoAssign: true, Allocation: &lb.ServiceAllocation{Namespaces: []string{"lab"}}}})
	for i := range 4097 {
		p.Put(simpleService(i))
	}
	p.Plan(epoch)
	s := p.services[simpleService(4096).Key]
	if s.decision.Reason != Exhausted {
		b.Fatalf("decided %v", s.decision)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.decide(s, p.attempt(s))
	}
}

// The worst of sharing: every Service has the same key; each in its turn finds
// the first address that still takes it, or finds that none does.
func BenchmarkSharing(b *testing.B) {
	const n = 16000
	for _, c := range []struct {
		name string
		port func(i int) uint16
	}{
		{"one address for all", func(i int) uint16 { return uint16(i) }},
		{"one address each", func(int) uint16 { return 80 }},
		{"ten to an address", func(i int) uint16 { return uint16(i % 10) }},
		{"some ports more often", func(i int) uint16 { return uint16(i * 7919 % 9973 % 97 * (i % 3)) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				p := New()
				p.SetPools([]lb.Pool{simplePool("edge", "10.0.0.0/8")})
				for i := range n {
					s := simpleService(i)
					s.Request.SharingKey, s.Ports[0].Number = "k", c.port(i)
					p.Put(s)
					r := p.Plan(epoch)
					p.Put(r.Services[len(r.Services)-1].Apply(s))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/service")
		})
	}
}

// Ten thousand wait for an exhausted pool; one address comes and goes.
func BenchmarkWaiting(b *testing.B) {
	const waiting = 10000
	p := New()
	p.SetPools([]lb.Pool{simplePool("edge", "10.0.0.0/24")})
	for i := range 256 + waiting {
		p.Put(simpleService(i))
	}
	for _, d := range p.Plan(epoch).Services {
		p.Put(d.Apply(p.services[d.Service].Service))
	}
	p.Plan(epoch)
	other := simpleService(1 << 20)
	b.Run("a Service more", func(b *testing.B) {
		for b.Loop() {
			p.Put(other)
			p.Plan(epoch)
		}
	})
	b.Run("an address freed and taken", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			for _, s := range p.services {
				if len(s.Assigned) > 0 {
					p.Delete(s.Key)
					break
				}
			}
			for _, d := range p.Plan(epoch).Services {
				p.Put(d.Apply(p.services[d.Service].Service))
			}
			p.Plan(epoch)
			p.Put(simpleService(1<<21 + i))
			p.Plan(epoch)
		}
	})
}

// Pools by the hundred.
func BenchmarkManyPools(b *testing.B) {
	const n = 2000
	var pools []lb.Pool
	for i := range 500 {
		pool := simplePool(fmt.Sprint("p", i), fmt.Sprintf("10.%d.%d.0/30", i/256, i%256))
		if i%2 == 0 {
			pool.Allocation = &lb.ServiceAllocation{Namespaces: []string{"bench"}, Priority: i}
		}
		pools = append(pools, pool)
	}
	for b.Loop() {
		p := New()
		p.SetPools(pools)
		for i := range n {
			s := simpleService(i)
			p.Put(s)
			r := p.Plan(epoch)
			p.Put(r.Services[len(r.Services)-1].Apply(s))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/service")
}

// disjointPools are pools of four addresses each, of alternating families.
func disjointPools(n int) []lb.Pool {
	var pools []lb.Pool
	for i := range n {
		prefix := fmt.Sprintf("10.%d.%d.%d/30", i>>14, i>>6&0xff, i<<2&0xff)
		if i%2 == 1 {
			prefix = fmt.Sprintf("2001:db8:%x::/126", i)
		}
		pools = append(pools, simplePool(fmt.Sprintf("p%05d", i), prefix))
	}
	return pools
}

func layOut(pools []lb.Pool) Result {
	origin.Divide(pools)
	p := New()
	p.SetPools(pools)
	return p.Plan(epoch)
}

func BenchmarkThousandsOfPools(b *testing.B) {
	for _, n := range []int{1000, 8000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			pools := disjointPools(n)
			b.ReportAllocs()
			for b.Loop() {
				layOut(pools)
			}
		})
	}
}

func TestThousandsOfPoolsAreLaidOutInLittleMemory(t *testing.T) {
	const n, most = 8000, 30 << 20
	pools := disjointPools(n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := layOut(pools)
	runtime.ReadMemStats(&after)
	if len(r.Pools) != n || r.Pools[n-1].V6.Total != 4 {
		t.Errorf("%d pools, the last %+v", len(r.Pools), r.Pools[len(r.Pools)-1])
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > most {
		t.Errorf("%d disjoint pools take %d bytes, want at most %d", n, took, most)
	}
}

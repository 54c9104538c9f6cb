package allocator

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/belfrylb/belfry/internal/lb"
)

// A tally says what a map would, is sorted, and has no port whose number is 0.
func TestATallySaysWhatAMapWould(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var got tally
	want := map[lb.Port]int{}
	port := func() lb.Port { return lb.Port{Protocol: lb.Protocol(rnd.IntN(3)), Number: uint16(rnd.IntN(12))} }
	for range 20_000 {
		switch rnd.IntN(3) {
		case 0, 1:
			p, n := port(), rnd.IntN(3)
			got.set(p, n)
			want[p] = n
		default:
			by := rnd.IntN(3) - 1
			got.update(func(p lb.Port, n int) int { return n + by*int(p.Number%2) })
			for p, n := range want {
				if n != 0 {
					want[p] = n + by*int(p.Number%2)
				}
			}
		}
		n := 0
		for p, number := range want {
			if got.of(p) != number {
				t.Fatalf("%v has %d, want %d", p, got.of(p), number)
			}
			if number != 0 {
				n++
			}
		}
		if len(got) != n {
			t.Fatalf("%d ports, want %d: %v", len(got), n, got)
		}
		for i := 1; i < len(got); i++ {
			if got[i-1].Compare(got[i].Port) >= 0 {
				t.Fatalf("not sorted: %v", got)
			}
		}
	}
	if size := unsafe.Sizeof(tallied{}); size > 8 {
		t.Errorf("a port takes %d bytes", size)
	}
}

// A multiset says how often what was added has not been removed.
func TestAMultisetCountsPorts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var got multiset
	want := map[lb.Port]int{}
	port := func() lb.Port { return lb.Port{Protocol: lb.Protocol(rnd.IntN(3)), Number: uint16(rnd.IntN(12))} }
	for range 20_000 {
		ports := []lb.Port{port(), port(), port()}[:rnd.IntN(4)]
		if n := 0; rnd.IntN(2) == 0 {
			got.add(ports)
			for _, p := range ports {
				want[p]++
			}
			if got == nil {
				t.Fatal("it is nil")
			}
		} else {
			got.remove(ports)
			for _, p := range ports {
				want[p] = max(want[p]-1, 0)
			}
			for p, number := range want {
				if n += number; got.of(p) != number {
					t.Fatalf("%v is there %d times, want %d", p, got.of(p), number)
				}
			}
			if len(got) != n {
				t.Fatalf("%d ports, want %d: %v", len(got), n, got)
			}
		}
	}
	if size := unsafe.Sizeof(lb.Port{}); size > 4 {
		t.Errorf("a port takes %d bytes", size)
	}
}

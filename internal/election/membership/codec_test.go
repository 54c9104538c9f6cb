package membership

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

func sample() *election.Record {
	return &election.Record{
		Node: "node-a", Address: netip.MustParseAddr("192.0.2.10"), Boot: 1 << 60, Seq: 300, Epoch: 77, Leaving: true, Whole: true,
		Interfaces: []lb.Interface{{
			Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, 1}, Up: true, Carrier: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::a/64"), netip.MustParsePrefix("fe80::1/64")},
		}},
		Management: []lb.Interface{{
			Name: "mgmt0", MAC: lb.MAC{2, 0, 0, 0, 0, 2}, Up: true, Carrier: true, Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.10/24")},
		}},
		Sessions: []lb.SessionID{0, 7, 1<<32 - 1},
		Claims: election.Claims{
			netip.MustParseAddr("198.51.100.0"):                            {Quorum: election.Majority, Epoch: 5},
			netip.MustParseAddr("198.51.100.1"):                            {Quorum: election.Majority, Epoch: 5},
			netip.MustParseAddr("198.51.100.9"):                            {Quorum: election.Majority, Epoch: 5},
			netip.MustParseAddr("255.255.255.255"):                         {Quorum: election.Minority, Epoch: 6},
			netip.MustParseAddr("0.0.0.0"):                                 {Quorum: election.Minority, Epoch: 6},
			netip.MustParseAddr("2001:db8:100::1"):                         {Quorum: election.Blind, Epoch: 1},
			netip.MustParseAddr("2001:db8:100::2"):                         {Quorum: election.Blind, Epoch: 1},
			netip.MustParseAddr("2001:db8:200::2"):                         {Quorum: election.Blind, Epoch: 1},
			netip.MustParseAddr("2001:db8::ffff:1"):                        {Quorum: election.Majority, Epoch: 5},
			netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"): {Quorum: election.Majority, Epoch: 5},
		},
	}
}

func TestARecordSurvivesTheWire(t *testing.T) {
	brief := sample()
	brief.Claims, brief.Whole = nil, false
	bare := &election.Record{Node: "n", Address: netip.MustParseAddr("2001:db8::5"), Joining: true, Whole: true, Claims: election.Claims{}}
	for _, want := range []*election.Record{sample(), brief, bare} {
		for k := election.Relayed; k <= election.Doubt; k++ {
			got, gotKind, err := decode(encode(want, k))
			if err != nil || gotKind != k || !reflect.DeepEqual(got, want) {
				t.Errorf("kind %d, %v: got %+v\nwant %+v", gotKind, err, got, want)
			}
		}
	}
}

func TestThousandsOfClaimsTakeKilobytes(t *testing.T) {
	r := sample()
	r.Claims = election.Claims{}
	rnd := rand.New(rand.NewPCG(1, 1))
	a4, a6 := netip.MustParseAddr("198.18.0.0"), netip.MustParseAddr("2001:db8::")
	for len(r.Claims) < 5000 {
		if rnd.IntN(3) == 0 { // One of three nodes' share of two pools.
			c := election.Claim{Quorum: election.Majority, Epoch: uint64(1 + rnd.IntN(2))}
			r.Claims[a4], r.Claims[a6] = c, c
		}
		a4, a6 = a4.Next(), a6.Next()
	}
	b := encode(r, election.Relayed)
	t.Logf("%d claims take %d bytes", len(r.Claims), len(b))
	if len(b) > 12<<10 {
		t.Errorf("%d claims take %d bytes", len(r.Claims), len(b))
	}
	if got, _, err := decode(b); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("they do not survive the wire: %v", err)
	}
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	s := sample()
	good := encode(s, election.Direct)
	for n := range good {
		if _, _, err := decode(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(good))
		}
	}
	prefix := []byte{version, byte(election.Direct), flagWhole, 1, 'n', 4, 192, 0, 2, 1, 1, 1, 1, 0}
	if _, _, err := decode(append(bytes.Clone(prefix), 0)); err != nil {
		t.Fatalf("the record that the table spoils: %v", err)
	}
	for name, b := range map[string][]byte{
		"empty":                    {},
		"trailing byte":            append(bytes.Clone(good), 0),
		"another version":          append([]byte{version + 1}, good[1:]...),
		"unknown kind":             append([]byte{version, byte(election.Doubt + 1)}, good[2:]...),
		"unknown flag":             append([]byte{version, 0, 0x80}, good[3:]...),
		"no name":                  {version, 0, 0, 0, 4, 192, 0, 2, 1, 1, 1, 1, 0},
		"unknown family":           {version, 0, 0, 1, 'n', 5, 192, 0, 2, 1, 1, 1, 1, 0},
		"mapped address":           {version, 0, 0, 1, 'n', 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 1, 1, 1, 0},
		"long form of a number":    {version, 0, 0, 1, 'n', 4, 192, 0, 2, 1, 0x81, 0, 1, 1, 0},
		"prefix of 33 bits":        {version, 0, 0, 1, 'n', 4, 192, 0, 2, 1, 1, 1, 1, 1, 1, 1, 'e', 0, 0, 0, 0, 0, 0, 1, 4, 192, 0, 2, 1, 33},
		"sessions in disorder":     {version, 0, flagSessions, 1, 'n', 4, 192, 0, 2, 1, 1, 1, 1, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1},
		"a session twice":          {version, 0, flagSessions, 1, 'n', 4, 192, 0, 2, 1, 1, 1, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1},
		"no sessions, flagged":     {version, 0, flagSessions, 1, 'n', 4, 192, 0, 2, 1, 1, 1, 1, 0, 0},
		"claim of no quorum":       append(bytes.Clone(prefix), 1, 0, 1, 1, 4, 1, 1, 0),
		"claim of a new quorum":    append(bytes.Clone(prefix), 1, 9, 1, 1, 4, 1, 1, 0),
		"range beyond the last":    append(bytes.Clone(prefix), 1, 3, 1, 1, 4, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1),
		"adjacent ranges":          append(bytes.Clone(prefix), 1, 3, 1, 1, 4, 2, 1, 0, 1, 0),
		"an address claimed twice": append(bytes.Clone(prefix), 2, 3, 1, 1, 4, 1, 1, 0, 3, 2, 1, 4, 1, 1, 0),
		"too many claims":          append(bytes.Clone(prefix), 1, 3, 1, 1, 4, 2, 1, 0x80, 0x80, 0x04, 2, 0x80, 0x80, 0x04),
	} {
		if r, _, err := decode(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, r)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := sample()
	f.Add(encode(s, election.Direct))
	f.Add(encode(&election.Record{Node: "n", Address: s.Address}, election.Knock))
	f.Add([]byte{version, 0, flagWhole, 1, 'n', 4, 192, 0, 2, 1, 1, 1, 1, 0, 1, 3, 1, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, k, err := decode(b)
		if err != nil {
			return
		}
		again, k2, err := decode(encode(r, k))
		if err != nil || k2 != k || !reflect.DeepEqual(again, r) {
			t.Errorf("%v\n got %+v\nwant %+v", err, again, r)
		}
	})
}

func FuzzUnframe(f *testing.F) {
	s := sample()
	f.Add(appendFramed(appendFramed(nil, encode(s, election.Relayed)), []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := unframe(b)
		if err != nil {
			return
		}
		var again []byte
		for _, i := range items {
			again = appendFramed(again, i)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("unframed %x, framed again %x", b, again)
		}
	})
}

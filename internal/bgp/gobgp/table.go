package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/guard"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// bandwidthUnit is the link bandwidth of one endpoint, in octets per second:
// 1 Gbit/s. Routers only compare (docs/design/gobgp.md).
const bandwidthUnit = 125e6

// globals guards package variables of gobgp: StartBgp writes them (always the
// same values), every server reads them when it changes or says its table.
var globals sync.RWMutex

// A pool keeps servers that are done with: gobgp's Serve never returns, so a
// server is used again rather than thrown away.
type pool struct {
	log  *slog.Logger
	mu   sync.Mutex
	free []*server.BgpServer
}

func (p *pool) get() *server.BgpServer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	s := server.NewBgpServer(server.LoggerOption(logger{p.log}))
	go s.Serve()
	return s
}

func (p *pool) put(s *server.BgpServer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, s)
}

// A shape is what a gobgp server must know about a session. While it stays the
// same the server, and its table, outlive the session.
type shape struct {
	localAS, peerAS uint32
	// behindAS, when not 0, stands behind localAS in the AS path.
	behindAS uint32
	v4, v6   bool
}

func shapeOf(p lb.BGPPeer, peerAS uint32) shape {
	families := bgp.Families(p)
	sh := shape{
		localAS: p.LocalAS(), peerAS: peerAS,
		v4: slices.Contains(families, lb.IPv4), v6: slices.Contains(families, lb.IPv6),
	}
	// Not the peer's own: it would take the route for one that has gone round, and gobgp
	// does not send it.
	if p.LocalASN != 0 && p.LocalASN != p.MyASN && sh.localAS != sh.peerAS && p.MyASN != sh.peerAS {
		sh.behindAS = p.MyASN
	}
	return sh
}

func (sh shape) families() []wire.Family {
	var out []wire.Family
	if sh.v4 {
		out = append(out, wire.IPv4Unicast)
	}
	if sh.v6 {
		out = append(out, wire.IPv6Unicast)
	}
	return out
}

// A hop is a route with its next hop.
type hop struct {
	bgp.Route
	next netip.Addr
}

// A table is a gobgp server with one peer, the guard. Its methods are not for
// several goroutines at once.
type table struct {
	pool   *pool
	server *server.BgpServer
	shape  shape
	inner  *guard.Backend
	// routes are those that the server has, by prefix.
	routes []hop
	// lost is closed when the connection between the server and the guard has
	// ended, and err then says why.
	lost chan struct{}
	err  error

	// owed counts the tables that the server has been asked for and has not yet
	// said. While there are any, the table holds globals, once. It owes nothing
	// any more once it is retired.
	mu      sync.Mutex
	owed    map[wire.Family]int
	retired bool
}

// The two ends of the connection on loopback. Neither identifier is seen by
// anybody else; they must differ, and from the AS alone gobgp decides between
// internal and external.
const serverID, guardID = "127.0.0.1", "127.0.0.2"

// newTable starts a server that has these routes, and waits until it talks to
// the guard.
func newTable(ctx context.Context, p *pool, sh shape, routes []hop) (*table, error) {
	t := &table{pool: p, server: p.get(), shape: sh, lost: make(chan struct{}), owed: map[wire.Family]int{}}
	if err := t.listen(ctx); err != nil {
		t.retire()
		return nil, err
	}
	if err := t.start(ctx, routes); err != nil {
		t.inner.Close()
		t.retire()
		return nil, err
	}
	go func() {
		defer close(t.lost)
		t.err = t.inner.Run()
		t.retire()
	}()
	return t, nil
}

// listen starts the server, which listens for the guard alone. Another process may be
// quicker to take a port that was free.
func (t *table) listen(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		inner, err := guard.NewBackend(t.said)
		if err != nil {
			return err
		}
		at := inner.Server()
		globals.Lock()
		err = t.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
			Asn: t.shape.localAS, RouterId: serverID, ListenPort: int32(at.Port()), ListenAddresses: []string{at.Addr().String()},
		}})
		globals.Unlock()
		if err == nil {
			t.inner = inner
			if err := inner.Seal(); err != nil {
				t.pool.log.Debug("the connection with gobgp is not signed", "err", err)
			}
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || attempt == 8 {
			return fmt.Errorf("start gobgp: %w", err)
		}
	}
}

func (t *table) start(ctx context.Context, routes []hop) error {
	// With routes before peers the first table is packed as tight as can be.
	if err := t.set(routes); err != nil {
		return err
	}
	neighbor := t.inner.Addr().String()
	peer := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: neighbor, PeerAsn: t.shape.peerAS, LocalAsn: t.shape.localAS},
		Transport: &api.Transport{PassiveMode: true, LocalAddress: t.inner.Server().Addr().String()},
		// The guard answers each keepalive, so the hold time is of no account.
		// It is also the time after which gobgp gives up on a write.
		Timers: &api.Timers{Config: &api.TimersConfig{HoldTime: 3600, KeepaliveInterval: 1200}},
		// For the End-of-RIB behind each table.
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 1},
	}
	for _, f := range t.shape.families() {
		peer.AfiSafis = append(peer.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: familyOf(f), Enabled: true}})
	}
	// It closes what comes before it waits for it.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	waits := make(chan struct{}, 1)
	err := t.server.WatchEvent(watching, &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{}}, func(r *api.WatchEventResponse) {
		if r.GetPeer().GetPeer().GetState().GetSessionState() == api.PeerState_ACTIVE {
			select {
			case waits <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return fmt.Errorf("watch gobgp's peer: %w", err)
	}
	if err := t.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peer}); err != nil {
		return fmt.Errorf("add the guard as gobgp's peer: %w", err)
	}
	select {
	case <-waits:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := t.inner.Dial(ctx); err != nil {
		return err
	}
	for _, f := range t.shape.families() {
		t.owe(f)
	}
	return t.inner.Greet(wire.Open{
		AS: t.shape.peerAS, HoldTime: 3600, ID: netip.MustParseAddr(guardID),
		Capabilities: wire.Capabilities{
			Families: t.shape.families(), FourOctetAS: true, RouteRefresh: true, ExtendedNextHop: t.shape.v4,
			GracefulRestart: &wire.GracefulRestart{Time: 1},
		},
	})
}

// refresh lets the server say its table of a family again, to the attached
// link.
func (t *table) refresh(f wire.Family) error {
	t.owe(f)
	return t.inner.Refresh(f)
}

// owe takes globals for the time in which a server says a table.
func (t *table) owe(f wire.Family) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired {
		return
	}
	if len(t.owed) == 0 {
		globals.RLock()
	}
	t.owed[f]++
}

// said gives globals back when all that was asked for has been said.
func (t *table) said(f wire.Family) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.owed[f] {
	case 0:
		return
	case 1:
		delete(t.owed, f)
	default:
		t.owed[f]--
	}
	if len(t.owed) == 0 {
		globals.RUnlock()
	}
}

// close ends the table.
func (t *table) close() {
	t.inner.Close()
	<-t.lost
}

// retire stops the server, keeps it for another table, and gives globals back for
// tables that will not be said any more. Until the server has stopped it may still
// find, in what it had received, that it is asked for one.
func (t *table) retire() {
	if err := t.server.StopBgp(context.Background(), &api.StopBgpRequest{}); err == nil {
		t.pool.put(t.server)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retired = true
	if len(t.owed) > 0 {
		clear(t.owed)
		globals.RUnlock()
	}
}

// set gives the server these routes, sorted by prefix. What is new is added
// before what is gone is withdrawn.
func (t *table) set(routes []hop) error {
	announce, withdraw := diff(t.routes, routes)
	attrs := map[string][]*anypb.Any{}
	var errs []error
	for _, r := range announce {
		key := r.next.String() + " " + r.Attributes.String()
		if attrs[key] == nil {
			a, err := t.attributes(r)
			if err != nil {
				errs = append(errs, fmt.Errorf("route %v: %w", r.Prefix, err))
				continue
			}
			attrs[key] = a
		}
		path, err := pathOf(r.Prefix)
		if err == nil {
			path.Pattrs = attrs[key]
			globals.RLock()
			_, err = t.server.AddPath(context.Background(), &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path})
			globals.RUnlock()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("announce %v: %w", r.Prefix, err))
		}
	}
	for _, p := range withdraw {
		path, err := pathOf(p)
		if err == nil {
			// gobgp wants a next hop here too, and does not look at it.
			path.Pattrs, err = anys(&api.OriginAttribute{}, &api.NextHopAttribute{NextHop: "192.0.2.1"})
		}
		if err == nil {
			globals.RLock()
			err = t.server.DeletePath(context.Background(), &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: path})
			globals.RUnlock()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("withdraw %v: %w", p, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs[:min(len(errs), 3)]...)
	}
	t.routes = routes
	return nil
}

// diff returns what leads from one table to another.
func diff(from, to []hop) (announce []hop, withdraw []netip.Prefix) {
	// A route with another next hop is another route.
	plain := func(hops []hop) []bgp.Route {
		out := make([]bgp.Route, len(hops))
		for i, h := range hops {
			out[i] = h.Route
		}
		return out
	}
	changes := bgp.Diff(plain(from), plain(to))
	was := make(map[netip.Prefix]netip.Addr, len(from))
	for _, h := range from {
		was[h.Prefix] = h.next
	}
	changed := make(map[netip.Prefix]bool, len(changes.Announce))
	for _, r := range changes.Announce {
		changed[r.Prefix] = true
	}
	for _, h := range to {
		if changed[h.Prefix] || was[h.Prefix] != h.next {
			announce = append(announce, h)
		}
	}
	return announce, changes.Withdraw
}

// attributes spells a route's attributes as gobgp wants them.
func (t *table) attributes(r hop) ([]*anypb.Any, error) {
	sh := t.shape
	// The next hop may be of either family; gobgp makes MP_REACH_NLRI of it
	// where that is needed.
	msgs := []proto.Message{&api.OriginAttribute{}, &api.NextHopAttribute{NextHop: r.next.String()}}
	var path []uint32
	for range r.Prepend {
		path = append(path, sh.localAS)
	}
	if sh.behindAS != 0 {
		path = append(path, sh.behindAS)
	}
	if len(path) > 0 {
		msgs = append(msgs, &api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: path}}})
	}
	if r.MED.Set {
		msgs = append(msgs, &api.MultiExitDiscAttribute{Med: r.MED.Value})
	}
	if r.LocalPref.Set && sh.localAS == sh.peerAS {
		msgs = append(msgs, &api.LocalPrefAttribute{LocalPref: r.LocalPref.Value})
	}
	var standard []uint32
	var large []*api.LargeCommunity
	for _, c := range r.Communities {
		if c.Large {
			large = append(large, &api.LargeCommunity{GlobalAdmin: c.A, LocalData1: c.B, LocalData2: c.C})
		} else {
			standard = append(standard, c.A<<16|c.B)
		}
	}
	if len(standard) > 0 {
		msgs = append(msgs, &api.CommunitiesAttribute{Communities: standard})
	}
	if len(large) > 0 {
		msgs = append(msgs, &api.LargeCommunitiesAttribute{Communities: large})
	}
	if r.Endpoints > 0 {
		as := sh.localAS
		if as > 0xffff {
			as = 23456 // AS_TRANS: the community has two octets for it
		}
		weight, err := anypb.New(&api.LinkBandwidthExtended{Asn: as, Bandwidth: float32(r.Endpoints) * bandwidthUnit})
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, &api.ExtendedCommunitiesAttribute{Communities: []*anypb.Any{weight}})
	}
	return anys(msgs...)
}

func anys(msgs ...proto.Message) ([]*anypb.Any, error) {
	out := make([]*anypb.Any, len(msgs))
	for i, m := range msgs {
		a, err := anypb.New(m)
		if err != nil {
			return nil, err
		}
		out[i] = a
	}
	return out, nil
}

// pathOf returns a path without attributes.
func pathOf(p netip.Prefix) (*api.Path, error) {
	f := wire.IPv4Unicast
	if p.Addr().Is6() {
		f = wire.IPv6Unicast
	}
	nlri, err := anypb.New(&api.IPAddressPrefix{PrefixLen: uint32(p.Bits()), Prefix: p.Addr().String()})
	return &api.Path{Family: familyOf(f), Nlri: nlri}, err
}

func familyOf(f wire.Family) *api.Family {
	return &api.Family{Afi: api.Family_Afi(f.AFI), Safi: api.Family_Safi(f.SAFI)}
}

// resolve gives routes their next hops. What has none is left out and counted.
func resolve(routes []bgp.Route, next map[lb.Family]bgp.NextHop) ([]hop, map[lb.Family]int) {
	hops := make([]hop, 0, len(routes))
	var unsendable map[lb.Family]int
	for _, r := range routes {
		f := lb.FamilyOf(r.Prefix.Addr())
		if next[f].Lack != bgp.HopFound {
			if unsendable == nil {
				unsendable = map[lb.Family]int{}
			}
			unsendable[f]++
			continue
		}
		hops = append(hops, hop{r, next[f].Address})
	}
	return hops, unsendable
}

package speaker

import (
	"context"
	"sync"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/proof"
)

// identifyAtOnce bounds how many nodes are asked at once whether a station is
// theirs (docs/design/announcing.md).
const identifyAtOnce = 8

// detected is what came of a core.Detect.
type detected struct {
	layer2.Inquiry
	found  []layer2.Heard
	failed bool
}

// identified is what came of a core.Identify.
type identified struct {
	core.Station
	is core.NodeAddress
}

// asked is what came of a core.Ask.
type asked struct {
	core.Ask
	answered bool
}

// proved is what came of a question as a client would ask it.
type proved struct {
	proof.Question
	answers []proof.Answer
	failed  bool
}

// ask puts the questions of a Core, each on a goroutine that ends with its answer
// or with ctx.
func (s *Speaker) ask(ctx context.Context, e core.Effects) {
	for _, q := range e.Detect {
		s.asking.Go(func() { s.detect(ctx, q) })
	}
	for _, q := range e.Identify {
		s.asking.Go(func() { s.identify(ctx, q) })
	}
	for _, q := range e.Ask {
		s.asking.Go(func() { s.question(ctx, q) })
	}
	for _, q := range e.Prove {
		s.asking.Go(func() { s.prove(ctx, q) })
	}
	for _, q := range e.Knock {
		s.asking.Go(func() {
			if _, err := s.link.Probe(ctx, q.Interface, q.Address, q.MAC); err != nil && ctx.Err() == nil {
				s.log.Debug("cannot probe a speaker that returns", "address", q.Address, "err", err)
			}
		})
	}
}

func (s *Speaker) detect(ctx context.Context, q core.Detect) {
	found, err := s.link.Detect(ctx, q.Interface, q.Addresses, q.OfNode)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("cannot probe for address conflicts", "addresses", len(q.Addresses), "err", err)
	}
	select {
	case s.detected <- detected{q.Inquiry, found, err != nil}:
	case <-ctx.Done():
	}
}

// question asks a station whether it answers for an address. What cannot be asked does
// not answer.
func (s *Speaker) question(ctx context.Context, q core.Ask) {
	is, err := s.link.Probe(ctx, q.Interface, q.Address, q.MAC)
	if err != nil && ctx.Err() == nil {
		s.log.Debug("cannot ask another speaker for an address", "address", q.Address, "err", err)
	}
	select {
	case s.asked <- asked{q, is}:
	case <-ctx.Done():
	}
}

func (s *Speaker) prove(ctx context.Context, q proof.Question) {
	answers, err := s.link.Ask(ctx, q)
	if err != nil && ctx.Err() == nil {
		s.log.Debug("cannot ask for announced addresses", "addresses", len(q.Targets), "err", err)
	}
	select {
	case s.proved <- proved{q, answers, err != nil}:
	case <-ctx.Done():
	}
}

// identify asks for the candidates' addresses until the station answers for one.
func (s *Speaker) identify(ctx context.Context, q core.Identify) {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		is    core.NodeAddress
		slots = make(chan struct{}, identifyAtOnce)
	)
	for _, c := range q.Candidates {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if answered, err := s.link.Probe(asking, q.Interface, c.Address, q.MAC); err == nil && answered {
				mu.Lock()
				defer mu.Unlock()
				is = c
				stop()
			}
		})
	}
	wg.Wait()
	select {
	case s.identified <- identified{q.Station, is}:
	case <-ctx.Done():
	}
}

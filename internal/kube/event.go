package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
)

// An Event tells a person that something about an object has changed. It is
// told once, by the part that saw the change; nothing waits for it.
type Event struct {
	// About is the object; see [objects.Service.Reference] and [Reference].
	About corev1.ObjectReference
	// Warning marks what a person should look into.
	Warning bool
	// Reason and Action are words in CamelCase: what happened, and what was
	// being done.
	Reason, Action string
	Note           string
	// Once names what is told, if it may be told again by another controller: it
	// appears once.
	Once string
}

// Reference names an object of our own kinds in Events.
func Reference(kind string, o metav1.Object) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: kind,
		Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
	}
}

// A Recorder writes Events. It keeps a bounded queue and never makes anybody
// wait: when the API server cannot keep up, Events are dropped and counted.
type Recorder struct {
	client               *CoreClient
	controller, instance string
	log                  *slog.Logger
	queue                chan queuedEvent
	recorded, dropped    atomic.Int64

	mu     sync.Mutex
	ration ration
	// timed is set while later is to run.
	timed bool
}

// A queuedEvent is an Event with its time and a number of its own.
type queuedEvent struct {
	Event
	at     time.Time
	number int64
}

// Limits of the events API, and of our patience: docs/design/bounds.md.
const (
	maxNote       = objects.MaxMessage
	eventQueue    = 4096
	eventWriters  = 2
	eventTimeout  = 10 * time.Second
	eventAttempts = 3
	// eventGrace is how long Events are still written once the program ends.
	eventGrace = 2 * time.Second
)

// NewRecorder makes a Recorder for a controller, such as
// belfry.dev/controller, of which instance is one.
func NewRecorder(client *CoreClient, controller, instance string, log *slog.Logger) *Recorder {
	return &Recorder{client: client, controller: controller, instance: instance, log: log, queue: make(chan queuedEvent, eventQueue)}
}

// Record queues an Event. Of many routine ones of one namespace the last is queued,
// after a while, and tells how many it stands for.
func (r *Recorder) Record(e Event) {
	if !e.routine() || r.allows(e) {
		r.enqueue(e)
	}
}

func (r *Recorder) allows(e Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.timed {
		r.timed = true
		time.AfterFunc(rationPause, r.later)
	}
	return r.ration.take(e, time.Now())
}

// later tells what the ration left out, for as long as it has anything to remember.
func (r *Recorder) later() {
	r.tellRest()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timed = len(r.ration.of) > 0; r.timed {
		time.AfterFunc(rationPause, r.later)
	}
}

// tellRest queues what the ration left out.
func (r *Recorder) tellRest() {
	r.mu.Lock()
	rest := r.ration.rest(time.Now())
	r.mu.Unlock()
	for _, e := range rest {
		r.enqueue(e)
	}
}

func (r *Recorder) enqueue(e Event) {
	select {
	case r.queue <- queuedEvent{e, time.Now(), r.recorded.Add(1)}:
	default:
		r.dropped.Add(1)
	}
}

// Dropped counts the Events that were never written.
func (r *Recorder) Dropped() int64 { return r.dropped.Load() }

// Run writes Events until ctx ends, and those still queued then for [eventGrace]. What
// is left is dropped.
func (r *Recorder) Run(ctx context.Context) {
	grace, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	told := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		r.tellRest()
		close(told)
		select {
		case <-grace.Done():
		case <-time.After(eventGrace):
			end()
		}
	})()
	var wg sync.WaitGroup
	for range eventWriters {
		wg.Go(func() {
			for {
				select {
				case e := <-r.queue:
					r.try(grace, e)
				case <-told:
					if len(r.queue) == 0 {
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// try writes an Event if that is possible before ctx ends.
func (r *Recorder) try(ctx context.Context, e queuedEvent) {
	if err := r.write(ctx, e); err != nil {
		r.dropped.Add(1)
		r.log.Warn("event lost", "reason", e.Reason, "about", e.About.Namespace+"/"+e.About.Name, "err", err)
	}
}

// write creates one Event. An attempt whose answer is lost is repeated under
// the same name, so that the Event appears once.
func (r *Recorder) write(ctx context.Context, e queuedEvent) error {
	namespace := e.About.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      eventName(e),
		},
		EventTime:           metav1.NewMicroTime(e.at),
		ReportingController: r.controller,
		ReportingInstance:   objects.Cut(r.instance, 128),
		Action:              e.Action,
		Reason:              e.Reason,
		Regarding:           e.About,
		Note:                objects.Cut(e.Note, maxNote),
		Type:                kind,
	}
	var err error
	for range eventAttempts {
		attempt, cancel := context.WithTimeout(ctx, eventTimeout)
		_, err = r.client.Events(namespace).Create(attempt, event, metav1.CreateOptions{})
		cancel()
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		switch classify(err) {
		case Unknown, Busy:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return err
}

// eventName is the name of an Event: that of its object, as far as there is room,
// with what makes it unique. A name that is cut in the middle of a label must not
// end in what no label ends in.
func eventName(e queuedEvent) string {
	about := e.About.Name[:min(len(e.About.Name), 200)]
	about = strings.TrimRight(about, ".-")
	if e.Once != "" {
		sum := sha256.Sum256([]byte(string(e.About.UID) + e.Once))
		return fmt.Sprintf("%s.%x", about, sum[:16])
	}
	return fmt.Sprintf("%s.%x.%x", about, e.at.UnixNano(), e.number)
}

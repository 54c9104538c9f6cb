package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// The pauses between attempts to go on watching, doubled each time: docs/design/live-view.md.
const (
	leastPause = time.Second
	mostPause  = 30 * time.Second
)

// A follower tells what becomes of the objects at a path of the API server.
type follower struct {
	client     rest.Interface
	path       string
	parameters []string
	// listed is told all objects at once, changed one that was added or changed, or is
	// gone. Neither is called by two goroutines.
	listed  func(all []json.RawMessage) error
	changed func(kind watch.EventType, body json.RawMessage) error
	// failed is told why it cannot go on at the moment, and nil once it does.
	failed func(error)
}

// run follows from the version of a list until the context ends. A watch that the API
// server ends is begun again where it was; when the server does not remember that moment
// any more, all is listed again.
func (f *follower) run(ctx context.Context, version string) {
	pause := leastPause
	for {
		var err error
		if version == "" {
			version, err = f.list(ctx)
		}
		if err == nil {
			version, err = f.watch(ctx, version, func() { pause = leastPause; f.failed(nil) })
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errForgotten):
			version = ""
		case err != nil:
			f.failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if err != nil {
			pause = min(2*pause, mostPause)
		}
	}
}

func (f *follower) list(ctx context.Context) (version string, err error) {
	var all []json.RawMessage
	version, err = pages(ctx, f.client, f.path, func(body []byte) error { all = append(all, body); return nil }, f.parameters...)
	if err != nil {
		return "", err
	}
	return version, f.listed(all)
}

// errForgotten says that the API server does not remember a version any more.
var errForgotten = errors.New("the version is too old")

// watch tells of changes after a version until the watch ends, and returns the version
// to go on from.
func (f *follower) watch(ctx context.Context, version string, begun func()) (string, error) {
	ask := f.client.Get().AbsPath(f.path).Param("watch", "true").Param("allowWatchBookmarks", "true").Param("resourceVersion", version)
	for i := 0; i+1 < len(f.parameters); i += 2 {
		ask.Param(f.parameters[i], f.parameters[i+1])
	}
	body, err := ask.Stream(ctx)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			err = errForgotten
		}
		return version, err
	}
	defer body.Close()
	begun()
	for in := json.NewDecoder(body); ; {
		var event struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := in.Decode(&event); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return version, nil // it has lasted long enough
		} else if err != nil {
			return version, err
		}
		if event.Type == watch.Error {
			var status metav1.Status
			if err := json.Unmarshal(event.Object, &status); err != nil {
				return version, err
			}
			if status.Code == http.StatusGone {
				return version, errForgotten
			}
			return version, fmt.Errorf("watch %s: %s", f.path, status.Message)
		}
		var head struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(event.Object, &head); err != nil {
			return version, err
		}
		if event.Type != watch.Bookmark {
			if err := f.changed(event.Type, event.Object); err != nil {
				return version, err
			}
		}
		version = head.Metadata.ResourceVersion
	}
}

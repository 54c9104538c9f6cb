package kube

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// A secretServer is an API server that has one Secret, belfry-system/belfry-gossip.
type secretServer struct{ text atomic.Pointer[string] }

// RoundTrip answers a request to read a Secret.
func (s *secretServer) RoundTrip(r *http.Request) (*http.Response, error) {
	var object any
	code := http.StatusOK
	if r.URL.Path == "/api/v1/namespaces/belfry-system/secrets/belfry-gossip" {
		object = &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			Data:     map[string][]byte{GossipKey: []byte(*s.text.Load())},
		}
	} else {
		code = http.StatusNotFound
		object = &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: "NotFound", Code: 404}
	}
	body, err := json.Marshal(object)
	return &http.Response{
		StatusCode: code, Request: r, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)),
	}, err
}

// client returns the client of an API server with that Secret.
func (s *secretServer) client(t *testing.T, text string) *CoreClient {
	t.Helper()
	s.text.Store(&text)
	c, err := NewCoreClient(&rest.Config{Host: "http://server", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The value is what `printf 0123456789abcdefghijklmn | sha256sum` prints.
func TestTheGossipKeyIsTheHashOfTheWholeText(t *testing.T) {
	got, err := ReadGossipKey(t.Context(), new(secretServer).client(t, "0123456789abcdefghijklmn"), "belfry-system", "belfry-gossip", slog.New(slog.DiscardHandler))
	if want := "d5ea2aa9223ac1fa43ccec70b30962690fcfc6686857f99a0c4b2963cf8bee4b"; err != nil || hex.EncodeToString(got[:]) != want {
		t.Errorf("%x, %v; want %s", got, err, want)
	}
}

func TestTheGossipKeyIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &secretServer{}
		client := server.client(t, "too short")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := ReadGossipKey(ctx, client, "belfry-system", "belfry-gossip", slog.New(slog.DiscardHandler)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "9 bytes") {
			t.Errorf("a short key: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := ReadGossipKey(ctx, client, "belfry-system", "other", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "not created it yet") {
			t.Errorf("no Secret: %v", err)
		}
		go func() {
			time.Sleep(time.Minute)
			text := "0123456789abcdefghijklmn"
			server.text.Store(&text)
		}()
		start := time.Now()
		if _, err := ReadGossipKey(t.Context(), client, "belfry-system", "belfry-gossip", slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < time.Minute || took > time.Minute+5*time.Second {
			t.Errorf("found after %v", took)
		}
	})
}

/* The search of walk_search.h.
 *
 * States are known by 128 bits of a hash of their names: among 10^8 states, two get the same one by chance with a
 * probability below 10^-22. The states themselves are kept, as the words that differ from the first state, only until
 * their successors are known. The first way to a state is a shortest one; it is told when something is wrong.
 */
#include "walk_search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = UINT8_MAX, OVER = 1, IDLE = 2, WORDS = sizeof(walk_state) / sizeof(uint64_t) };

/* What somebody does who wants to come to an end. */
typedef enum strategy { SERVE, PART, STUCK, STRATEGIES } strategy;

typedef struct node {
    uint64_t hash[2];
    uint64_t edges; /* its first in graph.edges; one for each move */
    uint32_t parent;
    walk_move by;
    uint8_t pick[STRATEGIES]; /* the move that the strategy takes */
    uint8_t end;
} node;

typedef struct bytes {
    uint8_t *data;
    size_t length, capacity;
} bytes;

typedef struct graph {
    const walk_world *world;
    bool exact;
    node *nodes;
    uint32_t count, capacity;
    uint32_t *edges;
    uint64_t edge_count, edge_capacity;
    uint32_t *table; /* from hash to node + 1 */
    size_t slots;
    bytes frontier, next;
    unsigned depth;
} graph;

static uint64_t first_words[WORDS];

static struct {
    const graph *graph;
    uint32_t node;
    walk_move move;
    bool moving;
} at;

/* ---------------------------------------------------------------------------------------------------------- memory */

static void *grown(void *memory, size_t size)
{
    void *more = realloc(memory, size);
    ck_assert_ptr_nonnull(more);
    return more;
}

static void dispose(graph *g)
{
    free(g->nodes);
    free(g->edges);
    free(g->table);
    free(g->frontier.data);
    free(g->next.data);
}

static void save(bytes *b)
{
    uint64_t words[WORDS];
    if (b->capacity - b->length < 2 + WORDS * 10) {
        b->capacity = b->capacity * 2 + (1 << 16);
        b->data = grown(b->data, b->capacity);
    }
    memcpy(words, &walk_now, sizeof words);
    size_t head = b->length;
    uint16_t count = 0;
    b->length += sizeof count;
    for (size_t i = 0; i < WORDS; i++) {
        uint16_t place = (uint16_t)i;
        if (words[i] == first_words[i])
            continue;
        memcpy(b->data + b->length, &place, sizeof place);
        memcpy(b->data + b->length + sizeof place, &words[i], sizeof words[i]);
        b->length += sizeof place + sizeof words[i];
        count++;
    }
    memcpy(b->data + head, &count, sizeof count);
}

static size_t restore(const bytes *b, size_t from)
{
    uint64_t words[WORDS];
    uint16_t count, i;
    memcpy(words, first_words, sizeof words);
    memcpy(&count, b->data + from, sizeof count);
    from += sizeof count;
    for (; count > 0; count--) {
        memcpy(&i, b->data + from, sizeof i);
        memcpy(&words[i], b->data + from + sizeof i, sizeof words[i]);
        from += sizeof i + sizeof words[i];
    }
    memcpy(&walk_now, words, sizeof words);
    return from;
}

/* ----------------------------------------------------------------------------------------------------------- hashes */

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32; /* the finalizer of Degski */
    h *= UINT64_C(0xd6e8feb86659fd93);
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return h ^ h >> 32;
}

static void hash_state(const walk_world *w, bool exact, uint64_t hash[2])
{
    uint8_t key[WALK_KEY + sizeof(uint64_t)] = {0};
    size_t length = walk_key(w, exact, key);
    must(length <= WALK_KEY);
    hash[0] = length;
    hash[1] = ~(uint64_t)length;
    for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, key + i, sizeof word);
        hash[0] = mix(hash[0] ^ word);
        hash[1] = mix(hash[1] + word * UINT64_C(0x9E3779B97F4A7C15));
    }
}

static void rehash(graph *g)
{
    g->slots = g->slots ? g->slots * 2 : 1 << 12;
    free(g->table);
    g->table = calloc(g->slots, sizeof *g->table);
    ck_assert_ptr_nonnull(g->table);
    for (uint32_t i = 0; i < g->count; i++) {
        size_t slot = g->nodes[i].hash[0] & (g->slots - 1);
        while (g->table[slot])
            slot = (slot + 1) & (g->slots - 1);
        g->table[slot] = i + 1;
    }
}

/* The slot of the table where the state is or would be. */
static uint32_t *find(const graph *g, const uint64_t hash[2])
{
    size_t slot = hash[0] & (g->slots - 1);
    for (; g->table[slot]; slot = (slot + 1) & (g->slots - 1)) {
        const node *n = &g->nodes[g->table[slot] - 1];
        if (n->hash[0] == hash[0] && n->hash[1] == hash[1])
            break;
    }
    return &g->table[slot];
}

/* ------------------------------------------------------------------------------------------------------ explanations
 */

static void explain(void)
{
    const graph *g = at.graph;
    size_t length = 0;
    for (uint32_t n = at.node; n; n = g->nodes[n].parent)
        length++;
    walk_move *way = malloc((length + 1) * sizeof *way);
    if (!way)
        return;
    size_t i = length;
    for (uint32_t n = at.node; n; n = g->nodes[n].parent)
        way[--i] = g->nodes[n].by;
    way[length] = at.move;
    printf("\nIn the world \"%s\", after %zu moves:\n", g->world->name, length + at.moving);
    walk_begin(g->world);
    walk_tells = true;
    for (i = 0; i < length + at.moving; i++) {
        walk_note(g->world);
        printf("%4zu  ", i + 1);
        walk_tell_move(g->world, way[i]);
        if (i == length)
            printf("  this goes wrong:");
        fflush(stdout);
        if (i < length)
            walk_make(g->world, way[i]);
        printf("\n");
    }
    walk_tells = false;
    free(way);
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------------------------ the strategies
 */

/* How much the strategy wants this move; 0: not at all. */
static unsigned wanted(strategy s, walk_move m)
{
    static const uint8_t WANTED[][STRATEGIES] = {
        [WALK_PUMP] = {9, 9, 9},
        [WALK_LEAVE] = {8, 0, 0},
        [WALK_CANCEL] = {0, 8, 8},
        [WALK_RELEASE_ANSWERED] = {7, 7, 5}, /* who asks for an answer gets a failed release back */
        [WALK_RELEASE] = {6, 6, 6},
        [WALK_END] = {0, 5, 7},
        [WALK_MERGED] = {4, 4, 4},
        [WALK_FINISH] = {4, 4, 4},
        [WALK_DELIVER] = {3, 3, 3},
        [WALK_EXPIRE] = {2, 2, 2},
        [WALK_TIME] = {1, 1, 1},
        [WALK_POLL] = {0, 0, 0},
        [WALK_KEEPING] = {0, 0, 0},
        [WALK_YIELDS] = {0, 0, 0},
        [WALK_LOSES] = {0, 0, 0},
    };
    afl_outcome o[WALK_OUTCOMES];
    if (m.kind == WALK_WATCHED)
        return m.variant == (s == SERVE);
    if (m.kind == WALK_CANCEL) {
        unsigned state = walk_now.requests[m.index].state;
        return state == AFL_WAITING || state == AFL_FAILING || state == AFL_GRANTED ? WANTED[m.kind][s] : 0;
    }
    if (m.kind == WALK_TIME && m.variant)
        return 0;
    if (m.kind == WALK_FINISH) {
        afl_op op = (afl_op)walk_now.paths[m.index].op;
        bool fails =
            s == STUCK && op == AFL_OP_RELEASE &&
            walk_outcomes(at.graph->world, &walk_now.paths[m.index], o) == 3; /* done, failed, failed with it */
        return m.variant == fails ? WANTED[m.kind][s] : 0;
    }
    return WANTED[m.kind][s];
}

static void choose_moves(node *n, const walk_move *moves, size_t count)
{
    for (strategy s = SERVE; s < STRATEGIES; s++) {
        unsigned most = 0;
        n->pick[s] = NONE;
        for (size_t i = 0; i < count; i++) {
            unsigned much = wanted(s, moves[i]);
            if (much > most) {
                most = much;
                n->pick[s] = (uint8_t)i;
            }
        }
    }
    n->end = (uint8_t)((walk_is_over(at.graph->world) ? OVER : 0) | (walk_all_idle(at.graph->world) ? IDLE : 0));
}

/* Follows the strategy from each state; returns the greatest number of moves until `end`. */
static unsigned follow(const graph *g, strategy s, uint8_t end)
{
    enum { UNKNOWN = 0, ON_THE_WAY = UINT16_MAX };
    unsigned longest = 0;
    uint16_t *left = calloc(g->count, sizeof *left); /* moves until the end, and one */
    uint32_t *way = malloc(ON_THE_WAY * sizeof *way);
    ck_assert_ptr_nonnull(left);
    ck_assert_ptr_nonnull(way);
    for (uint32_t i = 0; i < g->count; i++) {
        size_t length = 0;
        uint32_t n = i;
        while (left[n] == UNKNOWN && !(g->nodes[n].end & end)) {
            at.node = i;
            must(g->nodes[n].pick[s] != NONE); /* it rests before the end */
            must(length < ON_THE_WAY - 1);
            left[n] = ON_THE_WAY;
            way[length++] = n;
            n = g->edges[g->nodes[n].edges + g->nodes[n].pick[s]];
            must(left[n] != ON_THE_WAY); /* it never ends */
        }
        if (left[n] == UNKNOWN)
            left[n] = 1;
        for (unsigned more = left[n]; length > 0; left[way[length]] = (uint16_t)more) {
            more++;
            length--;
            longest = more - 1 > longest ? more - 1 : longest;
        }
    }
    free(left);
    free(way);
    return longest;
}

/* ---------------------------------------------------------------------------------------------------------- the walk
 */

static uint32_t arrive(graph *g, uint32_t parent, walk_move by)
{
    uint64_t hash[2];
    hash_state(g->world, g->exact, hash);
    uint32_t *slot = find(g, hash);
    if (*slot)
        return *slot - 1;
    if (g->count == g->capacity) {
        g->capacity = g->capacity ? g->capacity * 2 : 1 << 10;
        g->nodes = grown(g->nodes, g->capacity * sizeof *g->nodes);
    }
    g->nodes[g->count] = (node){.hash = {hash[0], hash[1]}, .parent = parent, .by = by};
    *slot = ++g->count;
    save(&g->next);
    if ((size_t)g->count * 2 > g->slots)
        rehash(g);
    return g->count - 1;
}

static uint64_t weight(const uint64_t hash[2])
{
    return mix(hash[0] ^ mix(hash[1]));
}

/* The sum of the names to which the moves from a state lead. */
static uint64_t signature(const graph *g, uint32_t n)
{
    uint64_t sum = 0, end = n + 1 < g->count ? g->nodes[n + 1].edges : g->edge_count;
    for (uint64_t e = g->nodes[n].edges; e < end; e++)
        sum += weight(g->nodes[g->edges[e]].hash);
    return sum;
}

/* All moves from the state of node n, which is walk_now. `plain`: the walk whose names leave something out. */
static void expand(graph *g, uint32_t n, const graph *plain)
{
    static walk_state here;
    walk_move moves[WALK_MOVES];
    uint64_t sum = 0, name[2] = {0, 0};
    at.node = n;
    at.moving = false;
    if (plain)
        hash_state(g->world, false, name);
    walk_note(g->world);
    size_t count = walk_moves(g->world, moves);
    choose_moves(&g->nodes[n], moves, count);
    g->nodes[n].edges = g->edge_count;
    if (g->edge_capacity - g->edge_count < WALK_MOVES) {
        g->edge_capacity = g->edge_capacity * 2 + WALK_MOVES;
        g->edges = grown(g->edges, g->edge_capacity * sizeof *g->edges);
    }
    memcpy(&here, &walk_now, sizeof here);
    at.moving = true;
    for (size_t i = 0; i < count; i++) {
        at.move = moves[i];
        walk_make(g->world, moves[i]);
        g->edges[g->edge_count++] = arrive(g, n, moves[i]);
        if (plain) {
            uint64_t hash[2];
            hash_state(g->world, false, hash);
            sum += weight(hash);
        }
        memcpy(&walk_now, &here, sizeof here);
    }
    at.moving = false;
    if (plain) {
        uint32_t same = *find(plain, name);
        must(same > 0);                          /* the plain walk has been here */
        must(signature(plain, same - 1) == sum); /* and saw the same things happen */
    }
}

static void walk(graph *g, const graph *plain, uint64_t most)
{
    at.graph = g;
    at.node = 0;
    driver_explanation = explain;
    rehash(g);
    walk_begin(g->world);
    memcpy(first_words, &walk_now, sizeof first_words);
    arrive(g, 0, (walk_move){0, 0, 0});
    for (uint32_t n = 0; n < g->count && n < most; g->depth++) {
        bytes swap = g->frontier;
        g->frontier = g->next;
        g->next = swap;
        g->next.length = 0;
        for (size_t from = 0; from < g->frontier.length && n < most; n++) {
            from = restore(&g->frontier, from);
            expand(g, n, plain);
        }
    }
}

static double count_sequences(const graph *g)
{
    double *ways = malloc(g->count * sizeof *ways), *next = malloc(g->count * sizeof *next);
    ck_assert_ptr_nonnull(ways);
    ck_assert_ptr_nonnull(next);
    for (uint32_t n = 0; n < g->count; n++)
        ways[n] = 1; /* the empty sequence */
    for (int i = 0; i < WALK_SEQUENCE; i++) {
        for (uint32_t n = 0; n < g->count; n++) {
            uint64_t end = n + 1 < g->count ? g->nodes[n + 1].edges : g->edge_count;
            next[n] = 0;
            for (uint64_t e = g->nodes[n].edges; e < end; e++)
                next[n] += ways[g->edges[e]];
        }
        double *swap = ways;
        ways = next;
        next = swap;
    }
    double all = ways[0];
    free(ways);
    free(next);
    return all;
}

static walk_figures figures_of(const graph *g)
{
    return (walk_figures){.states = g->count, .transitions = g->edge_count, .depth = g->depth - 1};
}

walk_figures walk_through(const walk_world *w)
{
    graph g = {.world = w};
    walk(&g, NULL, UINT32_MAX);
    walk_figures f = figures_of(&g);
    f.longest_end = follow(&g, SERVE, OVER);
    follow(&g, PART, OVER);
    follow(&g, STUCK, IDLE);
    f.sequences = count_sequences(&g);
    dispose(&g);
    driver_explanation = NULL;
    return f;
}

walk_figures walk_compare(const walk_world *w, uint64_t most)
{
    graph plain = {.world = w}, exact = {.world = w, .exact = true};
    walk(&plain, NULL, UINT32_MAX);
    walk_figures f = figures_of(&plain);
    walk(&exact, &plain, most);
    f.compared = exact.count < most ? exact.count : most;
    dispose(&plain);
    dispose(&exact);
    driver_explanation = NULL;
    return f;
}

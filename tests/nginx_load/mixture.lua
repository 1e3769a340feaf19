-- wrk -s mixture.lua URL -- FOLDER: requests of every kind. Each kind of answer is a line in FOLDER/answers.*

local NAMES = 500
local threads = 0
local seen = {}

function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end

function init(words)
    math.randomseed(os.time() + number)
    answers = assert(io.open(words[1] .. "/answers." .. number, "a"))
    answers:setvbuf("no")
end

function request()
    local kind = math.random(100)
    if kind <= 5 then
        return wrk.format("POST", "/append?id=m" .. number .. "-" .. math.random(1000000000))
    elseif kind <= 40 then
        return wrk.format("GET", "/named?name=" .. math.random(NAMES))
    elseif kind <= 60 then
        return wrk.format("GET", "/shared")
    elseif kind <= 70 then
        return wrk.format("GET", "/once")
    elseif kind <= 75 then
        return wrk.format("GET", "/soon")
    end
    return wrk.format("GET", "/static")
end

function response(status, headers, body)
    if not seen[status] then
        seen[status] = true
        answers:write(status, "\n")
    end
end
